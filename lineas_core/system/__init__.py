"""Paths, files, devices and caches: what every other room may use."""
