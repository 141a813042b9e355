"""The metric points of runs in column files beside the database."""
