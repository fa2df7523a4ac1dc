"""stepfall: where a cascade can run: machine types, presets, units, checks and printing."""
