"""A language model writes prompts."""
