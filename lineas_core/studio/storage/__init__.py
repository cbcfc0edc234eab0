"""The database, the files of maps, and the library over both."""
