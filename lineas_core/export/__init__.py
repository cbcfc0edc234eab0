"""Maps in formats of other libraries: export and import."""
