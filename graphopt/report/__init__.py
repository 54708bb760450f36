"""The report: JSON first, then terminal tables and one HTML page made from it."""
