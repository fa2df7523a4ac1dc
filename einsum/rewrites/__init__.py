"""Rewrites of cascades: pure functions from a cascade to one that computes the same (SEMANTICS 2.3 to 2.6)."""
