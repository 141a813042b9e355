"""How much memory a run needs, by arithmetic on a model's config and safetensors header. No torch, no weights read."""
