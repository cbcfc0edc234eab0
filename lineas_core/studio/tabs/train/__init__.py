"""The train tab."""
