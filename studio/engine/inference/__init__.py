"""Answers: load a base and its adapters, generate, stream."""
