"""Inference: load a base and its adapters, generate and stream answers."""
