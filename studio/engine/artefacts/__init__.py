"""Artefacts: adapters, merged models and GGUF files, their model cards and their parity check."""
