"""What all packages share: errors, atomic files, hashes, safe paths, TOML, nearest names, the command-line frame.

Imports the standard library, click, rich and pydantic, nothing else, so that every package may import it.
"""
