"""Language and image models: loading, sites and steered generation."""
