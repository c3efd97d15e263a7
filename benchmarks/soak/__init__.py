"""Runs that are disturbed on purpose, and must end as if nothing had happened: `python -m benchmarks.soak`."""
