"""Benchmarks of this machine: `clipstore bench embed` and `clipstore bench eval`."""
