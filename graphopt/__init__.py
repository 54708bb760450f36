"""graphopt: makes trained vision networks small and fast on ARM boards."""

__version__ = "0.1.0"
