"""Benchmarks of speed, memory and scaling; each prints one JSON line per figure."""
