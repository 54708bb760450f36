"""Passes that take channels out of a network, and how what goes is chosen."""
