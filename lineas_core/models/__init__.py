"""Models: loaded, named, steered."""
