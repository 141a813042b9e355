"""The command line: one module a noun; each command calls the same service as the page."""
