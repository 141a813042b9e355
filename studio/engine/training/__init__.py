"""Training: callbacks, methods, packing, preflight, resume, sampling, guards."""
