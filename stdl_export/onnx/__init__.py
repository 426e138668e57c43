"""NIR -> ONNX (opset 20): `lower` walks the graph, `rows` has one row per primitive, `time` puts neurons over T steps.

Values are folded: [T*B, ...], t-major, so that a layer without state runs once over all steps. What does not depend on
time (behind an input that repeats) stays [B, ...] and is computed once.
"""
