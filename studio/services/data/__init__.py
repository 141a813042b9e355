"""Datasets: check a file, add it, look at its examples."""
