"""Chat: one worker, several participants, comparisons and votes."""
