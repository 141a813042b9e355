"""Foreign weights: which files are taken, and whether they fit a base."""
