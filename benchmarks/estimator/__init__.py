"""The memory estimate against measured peaks: `python -m benchmarks.estimator [SMOLLM2_FOLDER]`."""
