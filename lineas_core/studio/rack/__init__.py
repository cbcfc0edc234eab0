"""The rack and the screen: which maps are on, and what is shown."""
