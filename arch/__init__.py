"""Where a cascade can run: machine types, presets, units, checks and printing."""
