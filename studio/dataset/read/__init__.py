"""Read dataset files: detect format, encoding and dialect, number rows, report faults."""
