"""Runs: start, list, queue, stop, resume, and what became of them."""
