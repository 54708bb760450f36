"""Where compiled networks run and are measured: here, in an emulator, on a board."""
