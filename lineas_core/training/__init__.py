"""Training a map: settings, the loop, and a run as a value."""
