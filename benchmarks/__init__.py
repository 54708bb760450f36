"""Comparisons with other tools, measured in one run. Each module is a command that prints a table."""
