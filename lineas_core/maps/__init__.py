"""Steering maps: the mathematics, calibration and the file format."""
