"""What the compiler has kernels for: operators spelled with those. Runs last, before compiling."""
