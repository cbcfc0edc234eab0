"""Prompt sets: values, files and checks."""
