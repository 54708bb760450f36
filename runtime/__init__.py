"""Running and measuring networks."""
