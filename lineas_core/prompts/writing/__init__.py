"""Writes prompts with a language model."""
