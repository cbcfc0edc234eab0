"""Who may do what: settings, visitors, limits, moderation."""
