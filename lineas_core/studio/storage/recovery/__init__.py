"""Detection and repair of a damaged database, and its backups."""
