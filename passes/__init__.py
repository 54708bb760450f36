"""Every pass, one per file, in one folder per stage."""
