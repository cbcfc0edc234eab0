"""Competing methods that are not affine maps."""
