"""Rendering of values as HTML, charts and CSV."""
