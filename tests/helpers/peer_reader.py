"""Runs in an environment of the peers, without ours: reads .nir files with a peer's importer and runs them.

    python peer_reader.py PEER FOLDER

Each sub-folder of FOLDER holds graph.nir, code.json (the lines that `stdl-export --for` prints) and input.npy
[T, B, ...]; it gets output.npy [T, B, ...], or error.txt with what the peer raised.
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path

import nir
import numpy as np
import torch


class Neuron(torch.nn.Module):
    """What nirtorch's users write: a NIR neuron by forward Euler as our dialect `nir` has it; the state is explicit."""

    def __init__(self, node, dt, reset):
        super().__init__()
        self.node, self.dt, self.reset = node, dt, reset

    def numbers(self):
        node, dt = self.node, self.dt
        if isinstance(node, nir.IF | nir.I):
            found = 1.0, np.float64(node.r) * dt, 0 * np.float64(node.r)
        else:
            tau = np.float64(node.tau_mem if isinstance(node, nir.CubaLIF) else node.tau)
            found = 1 - dt / tau, node.r * dt / tau, node.v_leak * dt / tau
        decay, gain, leak = (torch.as_tensor(np.asarray(each, np.float32)) for each in found)
        return decay, torch.where((gain - 1).abs() <= 1e-6, torch.ones(()), gain), leak

    def forward(self, x, state=None):
        node = self.node
        i, v = (torch.zeros_like(x), torch.zeros_like(x)) if state is None else state
        if isinstance(node, nir.CubaLIF):
            tau = np.float64(node.tau_syn)
            i = (
                torch.tensor(np.float32(1 - self.dt / tau)) * i
                + torch.tensor(np.float32(node.w_in * self.dt / tau)) * x
            )
        else:
            i = x
        decay, gain, leak = self.numbers()
        u = decay * v + gain * i + leak
        if isinstance(node, nir.LI | nir.I):
            return u, (i, u)
        threshold, v_reset = torch.tensor(node.v_threshold), torch.tensor(node.v_reset)
        s = (u > threshold).to(x.dtype)
        return s, (i, u - s * threshold if self.reset == "subtract" else torch.where(s > 0, v_reset, u))


class Threshold(torch.nn.Module):
    def __init__(self, node):
        super().__init__()
        self.threshold = torch.tensor(node.threshold)

    def forward(self, x):
        return (x > self.threshold).to(x.dtype)


def affine(node):
    module = torch.nn.Linear(node.weight.shape[1], node.weight.shape[0])
    module.weight.data, module.bias.data = torch.tensor(node.weight), torch.tensor(node.bias)
    return module


def node_map(graph):
    """The functions that nirtorch's own table lacks."""
    dt, reset = float(graph.metadata["stdl.dt"]), str(graph.metadata.get("stdl.reset"))
    neurons = {kind: lambda node: Neuron(node, dt, reset) for kind in (nir.I, nir.IF, nir.LIF, nir.LI, nir.CubaLIF)}
    return {nir.Affine: affine, nir.Threshold: Threshold, **neurons}


def run(peer, net, x):
    """[T, B, ...] of a fresh network."""
    steps, batch = x.shape[:2]
    x = torch.from_numpy(x)
    if peer == "sinabs":  # takes all steps at once, time behind batch
        found = net(x.swapaxes(0, 1).reshape(-1, *x.shape[2:]))
        found = found[0] if isinstance(found, tuple) else found
        return found.reshape(batch, steps, *found.shape[1:]).swapaxes(0, 1)
    outputs, state = [], None
    for frame in x:
        out, state = net(frame, state) if state is not None else net(frame)
        outputs.append(out)
    return torch.stack(outputs)


def read_and_run(peer, folder):
    # type_check: nir 1.0.8 finds grouped convolutions and kernels that are not square wrong
    graph = nir.read(folder / "graph.nir", type_check=False)
    x = np.load(folder / "input.npy")
    known = {"graph": graph, "node_map": node_map(graph) if peer == "nirtorch" else None, "B": x.shape[1]}
    exec("\n".join(json.loads((folder / "code.json").read_text())), known)
    with torch.no_grad():
        np.save(folder / "output.npy", run(peer, known["net"], x).numpy())


def attempt(peer, folder):
    try:
        read_and_run(peer, folder)
    except Exception as error:
        traceback.print_exc()
        (folder / "error.txt").write_text(f"{type(error).__name__}: {error}")


def main():
    torch.set_num_threads(1)
    for folder in sorted(Path(sys.argv[2]).iterdir()):
        attempt(sys.argv[1], folder)


if __name__ == "__main__":
    main()
