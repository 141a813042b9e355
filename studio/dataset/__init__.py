"""Datasets, without torch: read files, detect their format, render templates, tokenise, split.

Pages, the command line and the trainer all use `encode.Encoder`, so the rows shown are the rows trained on.
"""
