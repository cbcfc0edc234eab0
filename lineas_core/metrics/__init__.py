"""Scores of what a steered model makes."""
