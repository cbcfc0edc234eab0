"""What a map does: distances, health, strengths, calibration, interference."""
