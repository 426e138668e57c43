"""Neuromorphic chips: each file has the limits, the refusals, the integer arithmetic and the format of one family."""
