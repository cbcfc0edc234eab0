"""Paths, files, devices and caches, for use by every other package."""
