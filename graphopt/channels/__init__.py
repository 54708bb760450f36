"""Which channels of a network live and die together, and taking them out."""
