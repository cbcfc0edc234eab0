"""Steering maps: their mathematics and their file."""
