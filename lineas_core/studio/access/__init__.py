"""Access control: settings, visitors, limits, moderation, error messages."""
