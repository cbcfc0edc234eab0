"""What is on the screen, as values and files that make it again."""
