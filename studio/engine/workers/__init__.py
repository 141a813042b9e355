"""The workers: each module here is started by name, `python -m studio.engine.workers.NAME`."""
