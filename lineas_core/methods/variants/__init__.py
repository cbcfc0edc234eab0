"""Variants of LinEAS training: one that ends early, refinement, sparse maps."""
