"""Bit-accurate models of neuromorphic chips, as runtimes."""
