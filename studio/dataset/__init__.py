"""Data, without torch: read files, detect their format, render templates, tokenise, split.

What is shown is what is trained: pages, the command line and the trainer all use `encode.Encoder`.
"""
