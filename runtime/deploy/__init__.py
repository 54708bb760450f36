"""A compiled network as files for a board: library, header, weights, runner."""
