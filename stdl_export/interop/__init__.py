"""Files for others: `--for PEER` rewrites a graph so that another framework's reading of it gives our numbers.

`peers.toml` says what each peer can take and how it reads it; `adapt` is the entry.
"""
