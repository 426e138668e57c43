"""SpikingJelly and snnTorch in PyTorch eager on a network and input that `inference_latency.py` wrote: milliseconds.

Each runs in an environment of its own, which needs neither our packages nor nir:

    python -m venv .venv-spikingjelly && .venv-spikingjelly/bin/pip install torch==2.13.0 numpy spikingjelly==2.0.0
    python -m venv .venv-snntorch && .venv-snntorch/bin/pip install torch==2.13.0 numpy snntorch==1.0.0

The network is a list of operations with their weights, in order of execution, so both compute what we do: neurons with
decay 1/2, gain 1, threshold 1 and a reset to 0 in the same step. SpikingJelly runs multi-step, time folded into the
batch of its layers and step by step in its neurons only; snnTorch runs step by step, as its users write it.
"""

from __future__ import annotations

import functools
import inspect
import json
import sys
import time
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F


class Executor(torch.nn.Module):
    """The operations in order; inputs of an operation are summed. `neurons`: a module for each LIF."""

    def __init__(self, operations: list[dict[str, Any]], arrays: dict[str, torch.Tensor], neurons: Any) -> None:
        super().__init__()
        self.operations, self.arrays = operations, arrays
        self.neurons = torch.nn.ModuleDict(
            {str(i): neurons() for i, operation in enumerate(operations) if operation["kind"] == "LIF"}
        )

    def run(self, x: torch.Tensor, fire: Any) -> torch.Tensor:
        """x [N, ...] -> output [N, classes], N = T * B or B; `fire(neuron, current)` gives a neuron's spikes."""
        values = {"input": x}
        for index, operation in enumerate(self.operations):
            first, *more = (values[source] for source in operation["sources"])
            value = sum(more, start=first)
            if operation["kind"] == "LIF":
                values[operation["name"]] = fire(self.neurons[str(index)], value)
            else:
                values[operation["name"]] = self.stateless(operation, value)
        return values[self.operations[-1]["name"]]

    def stateless(self, operation: dict[str, Any], x: torch.Tensor) -> torch.Tensor:
        """A convolution, linear map, pool or flatten."""
        kind, name = operation["kind"], operation["name"]
        weight, bias = self.arrays.get(f"{name}.weight"), self.arrays.get(f"{name}.bias")
        if kind == "Conv2d":
            return F.conv2d(x, weight, bias, operation["stride"], operation["padding"], 1, operation["groups"])
        if kind in ("Affine", "Linear"):
            return F.linear(x, weight, bias)
        if kind == "AvgPool2d":
            return F.avg_pool2d(x, operation["kernel"], operation["stride"])
        return x.flatten(1)


def spikingjelly(
    operations: list[dict[str, Any]], arrays: dict[str, torch.Tensor], x: torch.Tensor, backend: str | None = None
) -> Any:
    """A function without arguments that runs x [T, B, ...] from rest.

    backend: of the neurons, in versions before 2 that take one by name; later ones choose their kernels by themselves.
    """
    from spikingjelly.activation_based import functional, neuron

    named = {} if backend is None else {"backend": backend}
    if named and "backend" not in inspect.signature(neuron.LIFNode).parameters:
        raise RuntimeError(f"SpikingJelly {version('spikingjelly')} chooses its kernels by itself")
    network = Executor(
        operations, arrays, lambda: neuron.LIFNode(tau=2.0, decay_input=False, v_reset=0.0, step_mode="m", **named)
    ).eval()

    def run() -> torch.Tensor:
        functional.reset_net(network)
        fire = lambda lif, current: lif(current.unflatten(0, x.shape[:2])).flatten(0, 1)  # noqa: E731
        return network.run(x.flatten(0, 1), fire).unflatten(0, x.shape[:2])

    return run


def spikingjelly_by_step(operations: list[dict[str, Any]], arrays: dict[str, torch.Tensor], x: torch.Tensor) -> Any:
    """As above, step by step, as a stream comes in, which is operations of PyTorch in every version."""
    from spikingjelly.activation_based import functional, neuron

    network = Executor(
        operations, arrays, lambda: neuron.LIFNode(tau=2.0, decay_input=False, v_reset=0.0, step_mode="s")
    ).eval()

    def run() -> torch.Tensor:
        functional.reset_net(network)
        return torch.stack([network.run(frame, lambda lif, current: lif(current)) for frame in x])

    return run


def snntorch(operations: list[dict[str, Any]], arrays: dict[str, torch.Tensor], x: torch.Tensor) -> Any:
    """As above, step by step."""
    import snntorch as snn

    network = Executor(
        operations, arrays, lambda: snn.Leaky(beta=0.5, reset_mechanism="zero", reset_delay=False, init_hidden=False)
    ).eval()

    def run() -> torch.Tensor:
        potentials = {neuron: neuron.init_leaky() for neuron in network.neurons.values()}

        def fire(neuron: Any, current: torch.Tensor) -> torch.Tensor:
            spikes, potentials[neuron] = neuron(current, potentials[neuron])
            return spikes

        return torch.stack([network.run(frame, fire) for frame in x])

    return run


FRAMEWORKS = {
    "spikingjelly": spikingjelly,
    "spikingjelly_by_step": spikingjelly_by_step,
    "spikingjelly_torch": functools.partial(spikingjelly, backend="torch"),
    "spikingjelly_cupy": functools.partial(spikingjelly, backend="cupy"),
    "spikingjelly_triton": functools.partial(spikingjelly, backend="triton"),
    "snntorch": snntorch,
}


def main(framework: str, file: str, runs: int, threads: int, device: str = "cpu") -> dict[str, Any]:
    """Milliseconds of each run behind three of warm-up; the output goes into FILE.<framework>.npy.

    On a GPU a run is from the frames on the host to the outputs on the host, which waits for the work.
    """
    torch.set_num_threads(threads)
    with np.load(file) as content:
        arrays = {name: torch.from_numpy(content[name]).to(device) for name in content.files if name != "operations"}
        operations = json.loads(str(content["operations"]))
    x = arrays.pop("x")
    frames = x.cpu()
    run = FRAMEWORKS[framework](operations, arrays, x)
    times = []
    with torch.inference_mode():
        np.save(f"{file}.{framework}.npy", run().cpu().numpy())
        for _ in range(runs + 3):
            begun = time.perf_counter()
            if device != "cpu":
                x.copy_(frames)
            run().cpu()
            times.append((time.perf_counter() - begun) * 1e3)
    return {"times": times[3:], "versions": {name: version(name) for name in ("torch", framework.split("_")[0])}}


if __name__ == "__main__":
    print(json.dumps(main(**json.loads(sys.argv[1]))))
