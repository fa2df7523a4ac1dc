"""stepfall: real kernels for a mapping: Triton source, interpreted, counted and compiled without a GPU."""
