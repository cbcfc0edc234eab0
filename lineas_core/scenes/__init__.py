"""Results (texts or pictures) as values, and the files that reproduce them."""
