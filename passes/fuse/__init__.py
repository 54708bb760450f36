"""Rewrites that merge linear operators into the weights beside them."""
