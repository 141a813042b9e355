"""Worker processes. Start each module by name: `python -m studio.engine.workers.NAME`."""
