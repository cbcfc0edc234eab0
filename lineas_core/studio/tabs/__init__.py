"""A layout and its callbacks for each tab."""
