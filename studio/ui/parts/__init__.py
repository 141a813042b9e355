"""Pieces that all pages share."""
