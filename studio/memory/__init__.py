"""Memory estimate of a run, from a model's config and safetensors header. Needs no torch and reads no weights."""
