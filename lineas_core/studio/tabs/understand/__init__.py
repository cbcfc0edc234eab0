"""The understand tab."""
