"""Finds the best channels of every layer under a target of MACs or latency."""
