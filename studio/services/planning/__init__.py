"""Before a run: estimate, dry run, presets, advice."""
