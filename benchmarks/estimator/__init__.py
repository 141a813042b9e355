"""Compare the memory estimate with measured peaks: `python -m benchmarks.estimator [SMOLLM2_FOLDER]`."""
