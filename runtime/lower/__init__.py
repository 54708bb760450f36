"""From the graph to a program: which kernels run, in which order, on which memory."""
