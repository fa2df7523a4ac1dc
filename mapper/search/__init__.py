"""stepfall's search for mappings: the space, its vectorised cost, and the proof of how good the answer is."""
