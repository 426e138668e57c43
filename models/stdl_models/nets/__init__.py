"""Builders of known networks, one file a family; `registry.NETWORKS` names them."""
