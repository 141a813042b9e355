"""Planning a run: estimate, dry run, presets and advice."""
