"""Scripts that made the embedded weights (corpus, CLIP, generator), and project maintenance."""
