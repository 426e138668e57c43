"""NIR -> ONNX (opset 20): `lower` walks the program, `rows` has one row per primitive without a state.

What has a state is a `cell`: a `neuron` layer, a `delay`, a `loop`. Each is emitted one step at a time; `time` puts
them over T steps, and the step graph holds a single one.

Values are folded: [T*B, ...], t-major, so that a layer without state runs once over all steps. What does not depend on
time (behind an input that repeats) stays [B, ...] and is computed once.
"""
