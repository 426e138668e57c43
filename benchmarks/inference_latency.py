"""Latency of a sequence of T steps: ONNX Runtime on our graphs against PyTorch and the frameworks, and the floor.

All run the same folded network with the same weights on the same input [T, B, ...], on the same number of threads, one
contender after the other; outputs are compared with those of our network in PyTorch. The floor is our graph without
its neurons: what its convolutions, linear maps, pools and sums cost in ONNX Runtime on all T at once.

    python benchmarks/inference_latency.py [--networks vgg11,sew_resnet18] [--batches 1,16] [--timesteps 4,16]
        [--runs 30] [--threads 2] [--resume] [--without-compile] [--spikingjelly PYTHON] [--snntorch PYTHON]

PYTHON: the interpreter of an environment that has the framework; peers/eager_inference.py says how to make one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nir
import numpy as np
import torch
from common import environment, keep, kept, report

from stdl_export import graph as graphs
from stdl_export.fold import fold
from stdl_export.from_torch import to_nir
from stdl_export.onnx import lower
from stdl_models.nets.registry import build_network, network_spec
from stdl_models.network import InputSpec, SpikingNetwork, batchnorms
from stdl_train.merge import reestimate_batchnorm

NAME = "inference_latency"
PEER = Path(__file__).parent / "peers" / "eager_inference.py"
SHAPES = {"vgg5": (1, 8, 8), "vgg11": (3, 32, 32), "sew_resnet18": (3, 32, 32)}
COLUMNS = {
    "sequence": "ours, sequence p50 ms", "step": "ours, T steps", "floor": "floor", "by_step": "PyTorch by step",
    "by_layer": "PyTorch by layer", "compiled": "torch.compile", "spikingjelly": "SpikingJelly", "snntorch": "snnTorch",
}  # fmt: skip
WARM_UP = 3

Run = Callable[[], Any]


def main() -> None:
    """Measure every configuration that an earlier run has not, then the table."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    results = kept(NAME, arguments.resume)
    done = {(r["network"], r["batch"], r["T"], r["threads"]) for r in results}
    for name in arguments.networks.split(","):
        for batch in map(int, arguments.batches.split(",")):
            for steps in map(int, arguments.timesteps.split(",")):
                if (name, batch, steps, arguments.threads) not in done:
                    results.append(measure(name, batch, steps, arguments))
                    keep(NAME, results)
    columns = ["network, batch, T", *COLUMNS.values(), "SpikingJelly / ours", "ours / floor", "equal outputs"]
    data = {"environment": environment("torch", "onnxruntime"), "threads": arguments.threads, "results": results}
    title = f"one sequence, float32, CPU, {arguments.threads} threads"
    report(NAME, title, columns, [_row(result) for result in results], data)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="vgg11,sew_resnet18")
    parser.add_argument("--batches", default="1,16")
    parser.add_argument("--timesteps", default="4,16")
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--resume", action="store_true", help="Go on where an earlier run was stopped.")
    parser.add_argument("--spikingjelly", metavar="PYTHON", help="Also run SpikingJelly, with this interpreter.")
    parser.add_argument("--snntorch", metavar="PYTHON", help="Also run snnTorch, with this interpreter.")
    parser.add_argument("--without-compile", action="store_true", help="Leave torch.compile out: it takes minutes.")
    return parser.parse_args()


def _row(result: dict[str, Any]) -> list[str]:
    median = {name: statistics.median(times) for name, times in result["times"].items()}
    ratio = f"{median['spikingjelly'] / median['sequence']:.2f}" if "spikingjelly" in median else "-"
    return [
        f"{result['network']}, {result['batch']}, {result['T']}",
        *(f"{median[name]:.2f}" if name in median else "-" for name in COLUMNS),
        ratio,
        f"{median['sequence'] / median['floor']:.2f}",
        f"{min(result['equal'].values()):.1%}",
    ]


def measure(name: str, batch: int, steps: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of each run of each contender, and the share of outputs that are as PyTorch's within 1e-3."""
    network, frames = spiking(name, batch, steps)
    graph = to_nir(network)
    graph = graphs.with_settings(graph, replace(graphs.settings(graph), T=steps, input="sequence"))
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        ours = contenders(network, graph, frames, Path(folder), arguments.threads)
        if arguments.without_compile:
            del ours["compiled"]
        outputs = {each: run() for each, run in ours.items()}
        times = {each: _timed(run, arguments.runs) for each, run in ours.items()}
        versions = {}
        for framework in ("spikingjelly", "snntorch"):
            if python := getattr(arguments, framework):
                file = Path(folder) / "network.npz"
                write_for_peers(graph, frames.numpy(), file)
                found, outputs[framework] = _peer(python, framework, file, arguments)
                times[framework], versions[framework] = found["times"], found["versions"]
    judge = outputs["by_layer"]
    equal = {
        each: float((np.abs(output - judge) <= 1e-3 * max(1.0, float(np.abs(judge).max()))).mean())
        for each, output in outputs.items()
        if each not in ("by_layer", "floor")
    }
    what = {"network": name, "batch": batch, "T": steps, "threads": arguments.threads}
    return {**what, "times": times, "equal": equal, "versions": versions}


def contenders(
    network: SpikingNetwork, graph: nir.NIRGraph, frames: torch.Tensor, folder: Path, threads: int
) -> dict[str, Run]:
    """Our graphs, the floor, and our network in PyTorch, each from frames [T, B, ...] to a NumPy array."""
    x = frames.numpy()
    whole, floor = (_session(lower.sequence(each), folder, threads) for each in (graph, without_neurons(graph)))
    one = _session(lower.step(graph), folder, threads)
    names = [each.name for each in one.get_outputs()]
    compiled = torch.compile(network.sequence)

    def step_by_step() -> Any:
        states = {each.name: np.zeros((x.shape[1], *each.shape[1:]), np.float32) for each in one.get_inputs()[1:]}
        outputs = []
        for frame in x:
            found = dict(zip(names, one.run(None, {"input": frame, **states}), strict=True))
            outputs.append(found["output"])
            states = {name: found[name.replace("state.", "state_out.", 1)] for name in states}
        return np.stack(outputs)

    def by_step() -> Any:
        outputs, states = [], None
        for frame in frames:
            output, states = network.step(frame, states)
            outputs.append(output)
        return torch.stack(outputs).numpy()

    return {
        "sequence": lambda: whole.run(None, {"input": x})[0],
        "step": step_by_step,
        "floor": lambda: floor.run(None, {"input": x})[0],
        "by_step": by_step,
        "by_layer": lambda: network.sequence(frames).numpy(),
        "compiled": lambda: compiled(frames).numpy(),
    }


def without_neurons(graph: nir.NIRGraph) -> nir.NIRGraph:
    """The graph with an edge from each source of a neuron to each of its consumers in the place of the neuron."""
    edges = [*dict.fromkeys(graph.edges)]
    neurons = graphs.neurons(graph)
    for neuron in neurons:
        sources = [source for source, target in edges if target == neuron]
        targets = [target for source, target in edges if source == neuron]
        edges = [edge for edge in edges if neuron not in edge]
        edges += [(source, target) for source in sources for target in targets]
    nodes = {name: node for name, node in graph.nodes.items() if name not in neurons}
    return nir.NIRGraph(nodes=nodes, edges=edges, metadata=graph.metadata, type_check=False)


def write_for_peers(graph: nir.NIRGraph, x: np.ndarray, file: Path) -> None:
    """The network as a list of operations in order of execution, its weights, and the input [T, B, ...]."""
    operations, arrays = [], {"x": x}
    sources = graphs.sources(graph)
    for name in graphs.order(graph):
        node, kind = graph.nodes[name], type(graph.nodes[name]).__name__
        if kind in ("Input", "Output"):
            continue
        said: dict[str, Any] = {"name": name, "kind": kind, "sources": sources[name]}
        if kind == "Conv2d":
            said |= {key: np.asarray(getattr(node, key)).tolist() for key in ("stride", "padding", "groups")}
        if kind == "AvgPool2d":
            said |= {"kernel": np.asarray(node.kernel_size).tolist(), "stride": np.asarray(node.stride).tolist()}
        arrays |= {f"{name}.{key}": getattr(node, key) for key in ("weight", "bias") if hasattr(node, key)}
        operations.append(said)
    np.savez(file, operations=np.array(json.dumps(operations)), **arrays)


def _peer(python: str, framework: str, file: Path, arguments: argparse.Namespace) -> tuple[dict[str, Any], Any]:
    wanted = {"framework": framework, "file": str(file), "runs": arguments.runs, "threads": arguments.threads}
    done = subprocess.run([python, str(PEER), json.dumps(wanted)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{framework} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout), np.load(f"{file}.{framework}.npy")


def _session(model: Any, folder: Path, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    lower.write(model, folder / "model.onnx")
    return onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])


def _timed(run: Run, runs: int) -> list[float]:
    """Milliseconds of each run; the first are warm-up."""
    times = []
    for _ in range(WARM_UP + runs):
        begun = time.perf_counter()
        run()
        times.append((time.perf_counter() - begun) * 1e3)
    return times[WARM_UP:]


def spiking(name: str, batch: int, steps: int) -> tuple[SpikingNetwork, torch.Tensor]:
    """An untrained network whose normalisation is set so that every layer spikes, folded, and frames [T, B, ...]."""
    torch.manual_seed(0)
    shape = SHAPES[name]
    network = build_network(network_spec(name, InputSpec(shape=shape), tuple("0123456789"), T=steps))
    for norm in batchnorms(network):
        norm.bias.data.fill_(0.3)
    reestimate_batchnorm(network, [torch.randn(64, *shape)])
    return fold(network), torch.randn(batch, *shape).expand(steps, batch, *shape).contiguous()


if __name__ == "__main__":
    main()
