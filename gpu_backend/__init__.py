"""stepfall: real kernels for a mapping: Triton source generated from it, interpreted, counted and compiled without a GPU."""
