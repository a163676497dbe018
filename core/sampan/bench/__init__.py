"""Benchmarks of drivers, side by side in one run: what `sampan bench` and `make bench-…` measure with."""
