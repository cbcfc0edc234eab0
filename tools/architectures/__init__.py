"""What this library does with each family of causal language models of transformers."""
