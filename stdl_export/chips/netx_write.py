"""Writes netx files (.net) as Lava's reader takes them: every field that it needs, and none that it stumbles over."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from stdl_export.chips.netx import Conv, Dense, Layer, Network, Neuron
from stdl_export.common.files import atomic_file


def write(network: Network, path: Path) -> None:
    """The file is whole or absent; `netx_read.read` gives the same network.

    HDF5 makes it in memory: on a full disk it fails in many ways, some of them while Python frees its objects.
    """
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        layers = file.create_group("layer")
        if network.input_shape is not None:
            _head(layers.create_group("0"), "input", network.input_shape)
        first = 0 if network.input_shape is None else 1
        for at, layer in enumerate(network.layers, first):
            _layer(layers.create_group(str(at)), layer)
    with atomic_file(path) as part:
        part.write_bytes(content.getbuffer())


def _head(group: Any, kind: str, shape: tuple[int, ...]) -> None:
    group.create_dataset("type", data=np.array([kind], "S10"))
    group.create_dataset("shape", data=np.array(shape, np.int64))


def _layer(group: Any, layer: Layer) -> None:
    if isinstance(layer, Dense):
        _head(group, layer.kind, layer.shape)
        _dense(group, layer)
    elif isinstance(layer, Conv):
        _head(group, "conv", layer.shape)
        _conv(group, layer)
    else:
        _head(group, "flatten", (*layer.shape, 1, 1))


def _dense(group: Any, layer: Dense) -> None:
    outputs, inputs = layer.weight.shape
    group.create_dataset("inFeatures", data=np.int64(inputs))
    group.create_dataset("outFeatures", data=np.int64(outputs))
    _array(group, "weight", layer.weight)
    for name, value in (("weight_rec", layer.recurrent), ("bias", layer.bias), ("delay", layer.delay)):
        if value is not None:
            _array(group, name, value)
    _neuron(group, layer.neuron)


def _conv(group: Any, layer: Conv) -> None:
    _array(group, "weight", layer.weight)
    if layer.bias is not None:
        _array(group, "bias", layer.bias if layer.bias.ndim == 1 else layer.bias.transpose(2, 1, 0))  # (W, H, C)
    numbers = {"kernelSize": layer.weight.shape[2:], "stride": layer.stride, "padding": layer.padding,
               "dilation": layer.dilation}  # fmt: skip
    for name, pair in numbers.items():
        group.create_dataset(name, data=np.array(pair, np.int64))
    for name, number in (("inChannels", layer.channels), ("outChannels", len(layer.weight)), ("groups", layer.groups)):
        group.create_dataset(name, data=np.int64(number))
    _neuron(group, layer.neuron)


def _neuron(group: Any, neuron: Neuron) -> None:
    made = group.create_group("neuron")
    made.create_dataset("type", data="CUBA")
    for name, value in (("iDecay", neuron.i_decay), ("vDecay", neuron.v_decay), ("vThMant", neuron.v_threshold)):
        made.create_dataset(name, data=value.reshape(-1) if value.ndim else np.int64(value))
    made.create_dataset("refDelay", data=np.int64(1))
    made.create_dataset("gradedSpike", data=False)


def _array(group: Any, name: str, value: Any) -> None:
    """In 32 bits, packed: most weights of a relay are 0."""
    group.create_dataset(name, data=value.astype(np.int32), compression="gzip" if value.size > 64 else None)
