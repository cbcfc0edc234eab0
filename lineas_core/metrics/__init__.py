"""Scores for the output of a steered model."""
