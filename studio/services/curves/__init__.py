"""Curves: downsampled lines, verdicts in words, TensorBoard files."""
