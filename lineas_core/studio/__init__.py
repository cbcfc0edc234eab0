"""The app: jobs, library, callbacks and page."""
