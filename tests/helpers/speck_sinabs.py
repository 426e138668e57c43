"""Runs in an environment of the peers, without ours: a configuration for Speck, its neurons by sinabs.

    python speck_sinabs.py FOLDER

Each sub-folder of FOLDER holds configuration.json and x.npy [T, B, C, H, W]; it gets out.npz with `core<k>`
[T, B, F, H, W], what sinabs' IAF neurons of each core fire, in whole numbers.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import sinabs.layers
import torch
from sinabs.activation import MembraneReset, MembraneSubtract, MultiSpike


def tensor(values):
    return torch.tensor(np.array(values), dtype=torch.float64)


def neurons(layer):
    """As sinabs' DynapcnnLayer has them: several spikes a step, and a lower bound."""
    made = sinabs.layers.IAF(
        spike_threshold=torch.tensor(float(layer["threshold_high"]), dtype=torch.float64),
        min_v_mem=torch.tensor(float(layer["threshold_low"]), dtype=torch.float64),
        spike_fn=MultiSpike,
        reset_fn=MembraneReset() if layer["return_to_zero"] else MembraneSubtract(),
    )
    return made.double()


def run(content, x):
    """Cores in the order in which spikes reach them."""
    layers = {int(k): layer for k, layer in content["cnn_layers"].items()}
    arrived = {each["layer"]: x for each in content["input"]["destinations"]}
    feeds = [(k, each) for k, layer in layers.items() for each in layer["destinations"]]
    fired = {}
    while len(fired) < len(layers):
        k = next(k for k in layers if k not in fired and all(s in fired for s, each in feeds if each["layer"] == k))
        layer, said = layers[k], layers[k]["dimensions"]
        current = torch.nn.functional.conv2d(
            arrived[k].flatten(0, 1), tensor(layer["weights"]).transpose(2, 3), tensor(layer["biases"]),
            (said["stride"]["y"], said["stride"]["x"]), (said["padding"]["y"], said["padding"]["x"]),
        ).unflatten(0, x.shape[:2])  # fmt: skip
        with torch.no_grad():
            fired[k] = neurons(layer)(current.transpose(0, 1)).transpose(0, 1).double()  # sinabs has [B, T, ...]
        for each in layer["destinations"]:
            pool = each["pooling"]
            summed = torch.nn.functional.avg_pool2d(fired[k].flatten(0, 1), pool) * pool**2
            summed = summed.unflatten(0, x.shape[:2])
            arrived[each["layer"]] = arrived.get(each["layer"], 0) + summed
    return fired


if __name__ == "__main__":
    for folder in Path(sys.argv[1]).iterdir():
        found = run(json.loads((folder / "configuration.json").read_text()), tensor(np.load(folder / "x.npy")))
        np.savez(folder / "out.npz", **{f"core{k}": spikes.round().long().numpy() for k, spikes in found.items()})
