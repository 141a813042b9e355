"""What the engine writes: adapters, merged models, GGUF files, their cards and their proof of parity."""
