"""Event recordings: readers, a simulated camera, frames, and the cache that keeps them. NumPy only.

The path of a recording: `readers` (file -> events) or `camera` (picture -> events) -> `recordings` (checked, named
where wrong) -> `frames` (events -> [T, P, H, W]) -> `cache` (memory-mapped) -> `Samples`.
"""
