"""What an export costs: a deep network, and a recurrent one over many steps, through the command.

    python benchmarks/export_cost.py [--layers 50] [--channels 64] [--size 16] [--steps 1000]

deep: `--layers` 3x3 convolutions, each with a LIF layer behind, T=4; recurrent: 128 inputs, 256 LIF neurons that feed
back through a Linear, T=`--steps`. Sequence, step and probe graph, with one golden sample: wall time and peak memory;
then the time that ONNX Runtime takes to load the sequence graph and to run it once.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import nir
import numpy as np
from common import environment, report

from stdl_export import bundle as bundles
from stdl_runtimes import base

DT = 2.0**-10
PRECISIONS = ("fp32", "fp16", "int8")
CODE = "from stdl_export.cli import entry; entry()"
INPUTS = 128  # of the recurrent network
HIDDEN = 256


def main() -> None:
    """Measure every configuration, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=50)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=1000)
    arguments = parser.parse_args()
    nets = {
        f"{arguments.layers} convolutions, T=4": deep(arguments.layers, arguments.channels, arguments.size),
        f"recurrent, T={arguments.steps}": recurrent(arguments.steps),
    }
    results = [measure(name, graph, precision) for name, graph in nets.items() for precision in PRECISIONS]
    columns = ("network", "precision", "export s", "CPU s", "peak MiB", "bundle MiB", "load s", "run s")
    rows = [
        [r["network"], r["precision"], *(f"{r[key]:.1f}" for key in ("export_s", "cpu_s", "peak_mib", "bundle_mib")),
         f"{r['load_s']:.2f}", f"{r['run_s']:.2f}"]
        for r in results
    ]  # fmt: skip
    data = {"environment": environment("onnx", "onnxruntime", "numpy"), "options": vars(arguments), "results": results}
    report("export_cost", "Export through the command", columns, rows, data)


def measure(name: str, graph: nir.NIRGraph, precision: str) -> dict[str, Any]:
    """Export once in a process of its own, then load and run the sequence graph."""
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "net.nir", Path(folder) / "bundle"
        nir.write(source, graph)
        args = [str(source), "--target", "onnx", "--golden", "1", "--precision", precision, "--out", str(out)]
        seconds, cpu, peak = run([sys.executable, "-c", CODE, *args])
        bundle = bundles.load(out)
        start = time.perf_counter()
        with base.load(bundle, "onnxruntime") as runtime:
            x = bundle.golden().input
            runtime.run(x)
            first = time.perf_counter() - start
            start = time.perf_counter()
            output = runtime.run(x)
            ran = time.perf_counter() - start
        assert np.isfinite(output).all(), "an exported network computes numbers"
        size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    return {
        "network": name,
        "precision": precision,
        "export_s": seconds,
        "cpu_s": cpu,
        "peak_mib": peak / 2**20,
        "bundle_mib": size / 2**20,
        "load_s": first - ran,
        "run_s": ran,
    }


def run(command: list[str]) -> tuple[float, float, int]:
    """Wall and processor time in seconds, and the largest resident memory in bytes of any process started here so far.

    Configurations run in the order of the table; a peak that is not higher than the one before shows as that one.
    """
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, cpu, after.ru_maxrss * 1024


def deep(layers: int, channels: int, size: int) -> nir.NIRGraph:
    """Convolutions with the LIF layers behind them; weights with which spikes get through to the end."""
    rng = np.random.default_rng(0)
    shape = (channels, size, size)
    nodes: dict[str, nir.NIRNode] = {"input": nir.Input(np.array(shape))}
    for at in range(layers):
        weight = rng.normal(0, 2.2 / np.sqrt(9 * channels), size=(channels, channels, 3, 3)).astype(np.float32)
        bias = np.full(channels, 0.2, np.float32)
        nodes[f"conv{at}"] = nir.Conv2d((size, size), weight, 1, 1, 1, 1, bias)
        nodes[f"lif{at}"] = lif(shape)
    nodes["output"] = nir.Output(np.array(shape))
    return graph(nodes, list(pairwise(nodes)), T=4)


def recurrent(steps: int) -> nir.NIRGraph:
    """LIF neurons with feedback, and a linear readout."""
    rng = np.random.default_rng(0)

    def linear(out: int, into: int) -> nir.Linear:
        return nir.Linear(rng.normal(0, 1.5 / np.sqrt(into), size=(out, into)).astype(np.float32))

    nodes = {
        "input": nir.Input(np.array([INPUTS])),
        "in": linear(HIDDEN, INPUTS),
        "lif": lif((HIDDEN,)),
        "back": linear(HIDDEN, HIDDEN),
        "out": linear(10, HIDDEN),
        "output": nir.Output(np.array([10])),
    }
    edges = [("input", "in"), ("in", "lif"), ("lif", "back"), ("back", "lif"), ("lif", "out"), ("out", "output")]
    return graph(nodes, edges, T=steps)


def lif(shape: tuple[int, ...]) -> nir.LIF:
    """Decay 1/2 and gain 1 at DT."""
    values = {"tau": 2 * DT, "r": 2, "v_leak": 0, "v_threshold": 1, "v_reset": 0}
    return nir.LIF(**{name: np.full(shape, value, np.float32) for name, value in values.items()})


def graph(nodes: dict[str, nir.NIRNode], edges: list[tuple[str, str]], T: int) -> nir.NIRGraph:
    """A graph with its T."""
    metadata = {"stdl.dt": DT, "stdl.T": T, "stdl.input": "sequence"}
    return nir.NIRGraph(nodes=nodes, edges=edges, metadata=metadata, type_check=False)


if __name__ == "__main__":
    main()
