"""Curves: downsampled lines, a diagnosis in words, TensorBoard files."""
