"""Rivals that are no affine maps."""
