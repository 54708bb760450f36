"""Rewrites that compute the same with fewer or cheaper nodes."""
