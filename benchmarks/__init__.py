"""Measures specstar against the raw drivers and other libraries: `python -m benchmarks --help`."""
