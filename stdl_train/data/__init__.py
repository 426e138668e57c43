"""Data sets as NumPy arrays, without torch, so that validation reads them on a device as well.

A data set is a function `(split, path, limit, seed, **options) -> Samples`, registered as an entry point of the group
`stdl.datasets`; third parties register theirs in the same way.
"""
