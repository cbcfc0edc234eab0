"""The page, the API, and the middleware of the server."""
