"""The vocabulary of spiking neural networks in PyTorch: neurons, units, networks, recipes.

A unit (`units`) is the atom that splitting, auxiliary networks, merging and export agree on.
"""
