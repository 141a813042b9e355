"""Exports: adapter, merged model, GGUF, publishing, reproducing."""
