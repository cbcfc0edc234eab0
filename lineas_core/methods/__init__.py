"""Ways to learn a map, one file each."""
