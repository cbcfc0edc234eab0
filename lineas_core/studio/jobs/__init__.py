"""Training in the background."""
