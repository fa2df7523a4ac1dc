"""stepfall: what happens in time: programs of tiles, their simulation on SimPy, exact folding, and traces."""
