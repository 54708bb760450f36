"""How much a channel matters, one measure per file."""
