"""Mixtures of experts: what the routing of tokens does to latency, traffic and load."""
