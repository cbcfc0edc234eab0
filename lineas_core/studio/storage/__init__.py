"""The database, the map files, and the library built on both."""
