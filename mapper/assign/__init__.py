"""Binding and order of the leaves of a pipe by a mixed-integer program (SEMANTICS 8.9)."""
