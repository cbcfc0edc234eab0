"""Training of maps: settings, the training loop and its saved state."""
