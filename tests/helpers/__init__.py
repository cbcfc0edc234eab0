"""Helpers shared by tests: small models, maps, a Studio, a hub."""
