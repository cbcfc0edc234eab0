"""Measurements of what a map does: distance, health, strength, calibration, interference."""
