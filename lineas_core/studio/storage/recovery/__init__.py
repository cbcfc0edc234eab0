"""A damaged database: found, mended, backed up."""
