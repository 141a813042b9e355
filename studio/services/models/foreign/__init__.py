"""Weights from elsewhere: what is taken of them, and whether they fit a base."""
