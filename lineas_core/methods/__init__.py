"""Methods that learn a map, one file each."""
