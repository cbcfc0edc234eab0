"""What language and image models have in common."""
