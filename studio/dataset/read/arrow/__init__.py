"""Readers for files in the formats of Apache Arrow: Parquet, and Arrow files and streams."""
