"""Reusable page components, including those that render in JavaScript."""
