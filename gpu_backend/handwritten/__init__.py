"""Kernels written by hand, where generation does not reach: the order of their work depends on data."""
