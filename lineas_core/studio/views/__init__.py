"""Values as HTML, charts and CSV."""
