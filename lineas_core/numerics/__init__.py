"""Optimal transport, proximal operators and proximal gradient descent, independent of models."""
