"""Decoding of text files, and readers for JSON."""
