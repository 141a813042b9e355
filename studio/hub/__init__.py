"""Downloads from and uploads to the Hugging Face hub and PyPI, each in a separate process."""
