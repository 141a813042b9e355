"""Reading dataset files: format, encoding and dialect found, rows numbered, faults named."""
