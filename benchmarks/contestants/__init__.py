"""The contestants: one module each, run in a process of its own by `benchmarks.worker`."""
