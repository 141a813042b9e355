"""Column files with the metric points of runs, next to the database."""
