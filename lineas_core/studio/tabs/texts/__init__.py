"""The text tab."""
