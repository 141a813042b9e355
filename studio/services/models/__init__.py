"""Base models and adapters: add, combine, import."""
