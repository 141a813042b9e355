"""The Hugging Face hub and PyPI: downloads and uploads, each in a process of its own."""
