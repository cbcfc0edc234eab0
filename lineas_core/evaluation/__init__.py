"""Reproduction of the papers' tables."""
