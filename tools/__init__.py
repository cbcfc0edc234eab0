"""How the embedded weights were made: corpus, CLIP and generator, one command each."""
