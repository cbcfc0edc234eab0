"""Maps in other people's formats."""
