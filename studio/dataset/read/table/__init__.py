"""Readers for csv and tsv files."""
