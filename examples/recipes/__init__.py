"""Recipes of published systems: the TOML files beside this one, run by `graphopt recipe run NAME`."""
