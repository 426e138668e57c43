"""From a spiking network to what runs on a device: NIR, ONNX, TensorRT, all proved against one NumPy reference.

`graph` is the waist: left of it is PyTorch (`fold`, `from_torch`), right of it is none. `stdl-export` is `cli.entry`.
"""
