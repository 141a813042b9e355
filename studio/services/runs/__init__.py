"""Runs: start, list, queue, stop, resume, and how they ended."""
