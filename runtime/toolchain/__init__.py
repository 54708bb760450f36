"""C compilers and linkers that build for a board."""
