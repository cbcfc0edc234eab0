"""Prompt sets, their files, and what is checked in them."""
