"""Still pictures: readers, a table of known sets, and sources that decode pictures when they are asked for. NumPy only.

The path of a picture: `idx`, `folders` or `tables` (where it lies -> `Pictures`, not read yet) -> `pixels` (decoded, in
the set's channels, resized and cropped) -> `source` (in memory or when asked for) -> `Samples`. `sets` is the table.
"""
