"""Sparse attention: what the papers claim, what their cascades cost, and a mapped case."""
