"""Benchmarks: speed, and label efficiency, against plain implementations in the same run."""
