"""Code shared by language and image models."""
