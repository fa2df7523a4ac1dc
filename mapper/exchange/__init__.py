"""stepfall: exchange: workloads, architectures and mappings of other tools, read in and written out."""
