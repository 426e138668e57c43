"""T steps of a network on one GPU: our engines against PyTorch and SpikingJelly, step by step and as a whole sequence.

From frames [T, B, C, H, W] on the host to outputs [T, B, classes] on the host. "Step by step": a frame goes in, its
output comes out, then the next; that is what a stream is. "Sequence": all T at once. SpikingJelly 2 chooses the kernels
of its neurons by itself; an older version (0.0.0.0.14) takes torch, cupy or triton by name, for whole sequences. All
have the same weights in float32, TF32 off. A contender that is not here is named with the reason.

    python benchmarks/gpu/streaming.py [--networks vgg5,vgg11] [--batches 1,128] [--steps 16] [--runs 50]
        [--spikingjelly PYTHON] [--without-compile]

PYTHON: the interpreter of an environment that has SpikingJelly; peers/eager_inference.py says how to make one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))
import common
from inference_latency import PEER, _timed, spiking, write_for_peers
from streaming import exported

import stdl_runtimes
from stdl_export import graph as graphs
from stdl_export.common.errors import StdlError, one_line
from stdl_export.from_torch import to_nir
from stdl_models.network import SpikingNetwork
from stdl_runtimes import Runtime

NAME = "gpu_streaming"
OURS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "TensorRT": ("tensorrt", {}),
    "ORT CUDA": ("onnxruntime-cuda", {}),
    "ORT CUDA, CUDA graphs": ("onnxruntime-cuda", {"cuda_graph": "true"}),
    "ORT TensorRT": ("onnxruntime-tensorrt", {}),
    "ORT TensorRT RTX": ("onnxruntime-nv", {}),
}
PEERS = {
    "SpikingJelly": {"step": "spikingjelly_by_step", "sequence": "spikingjelly"},
    "SpikingJelly, torch": {"sequence": "spikingjelly_torch"},
    "SpikingJelly, cupy": {"sequence": "spikingjelly_cupy"},
    "SpikingJelly, triton": {"sequence": "spikingjelly_triton"},
}
EAGER = "SpikingJelly"
CLOSE = 1e-3  # of the largest output: one that is further off is another one

Run = Callable[[], np.ndarray]


@dataclass(frozen=True)
class Result:
    """Milliseconds of each run of T steps, and the share of outputs that are PyTorch's; or why there are none."""

    network: str
    batch: int
    contender: str
    mode: str
    times: list[float]
    equal: float
    skipped: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)  # of a contender with an environment of its own


def main() -> int:
    """Everything that is here, then the table."""
    arguments = _arguments()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("gpu/streaming: PyTorch finds no CUDA device here; run it on a machine with a GPU", file=sys.stderr)
        return 1
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    results = [
        result
        for name in arguments.networks.split(",")
        for batch in map(int, arguments.batches.split(","))
        for result in measure(name, batch, arguments)
    ]
    _report(results, arguments)
    return 0


def _arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="vgg5,vgg11")
    parser.add_argument("--batches", default="1,128")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--spikingjelly", metavar="PYTHON", help="Also run SpikingJelly, with this interpreter.")
    parser.add_argument("--without-compile", action="store_true", help="Leave torch.compile out.")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: to try the benchmark itself.")
    return parser.parse_args(given)


def measure(name: str, batch: int, arguments: argparse.Namespace) -> Iterator[Result]:
    """Every contender on one network and batch; outputs are compared with those of PyTorch, layer by layer in eager."""
    network, frames = spiking(name, batch, arguments.steps)
    graph = to_nir(network)
    graph = graphs.with_settings(graph, replace(graphs.settings(graph), T=arguments.steps, input="sequence"))
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack, torch.inference_mode():
        runs, skipped = in_pytorch(network.to(arguments.device), frames, arguments), dict[tuple[str, str], str]()
        judge = runs["PyTorch eager", "step"]()
        targets = "onnx,tensorrt" if arguments.device == "cuda" and _tensorrt() else "onnx"
        more = ["--target", targets, "--batch", f"1:{batch}:{batch}"]
        bundle = exported(graph, Path(folder), *more)
        for contender, (runtime, options) in OURS.items():
            try:
                opened = stack.enter_context(stdl_runtimes.load(bundle, runtime, options=options))
                runs |= {(contender, mode): run for mode, run in ours(opened, frames.numpy(), stack).items()}
            except StdlError as reason:  # noqa: PERF203 (there are but a few)
                skipped[contender, "step"] = str(reason)
        for (contender, mode), run in runs.items():
            yield _measured(name, batch, contender, mode, run, judge, arguments.runs)
        file = Path(folder) / "network.npz"
        write_for_peers(graph, frames.numpy(), file)
        for contender, modes in PEERS.items():
            for mode, framework in modes.items():
                try:
                    times, equal, versions = _peer(framework, file, judge, arguments)
                    yield Result(name, batch, contender, mode, times, equal, versions=versions)
                except RuntimeError as reason:  # noqa: PERF203 (there are but a few)
                    skipped[contender, mode] = str(reason)
    for (contender, mode), why in skipped.items():
        yield Result(name, batch, contender, mode, [], 0.0, why)


def ours(runtime: Runtime, x: np.ndarray, stack: ExitStack) -> dict[str, Run]:
    """A session's steps and the sequence."""
    session = stack.enter_context(runtime.session(x.shape[1]))

    def steps() -> np.ndarray:
        session.reset()
        return np.stack([session.step(frame) for frame in x])

    return {"step": steps, "sequence": lambda: np.asarray(runtime.run(x))}


def in_pytorch(
    network: SpikingNetwork, frames: torch.Tensor, arguments: argparse.Namespace
) -> dict[tuple[str, str], Run]:
    """Our own network in PyTorch, eager and compiled, by step and layer by layer."""
    device = torch.device(arguments.device)
    forms: dict[str, tuple[Any, Any]] = {"PyTorch eager": (network.step, network.sequence)}
    if not arguments.without_compile:
        torch._dynamo.config.recompile_limit = 256  # every unit is compiled by itself; 8 would leave some eager
        forms["torch.compile"] = (torch.compile(network.step), torch.compile(network.sequence))

    def by_step(step: Any) -> np.ndarray:
        outputs, states = [], None
        for frame in frames:
            output, states = step(frame.to(device), states)
            outputs.append(output.cpu())
        return torch.stack(outputs).numpy()

    runs: dict[tuple[str, str], Run] = {}
    for name, (step, sequence) in forms.items():
        runs[name, "step"] = lambda step=step: by_step(step)  # type: ignore[misc]
        runs[name, "sequence"] = lambda all=sequence: all(frames.to(device)).cpu().numpy()  # type: ignore[misc]
    return runs


def _measured(name: str, batch: int, contender: str, mode: str, run: Run, judge: np.ndarray, runs: int) -> Result:
    try:
        output = run()
    except StdlError as reason:
        return Result(name, batch, contender, mode, [], 0.0, str(reason))
    return Result(name, batch, contender, mode, _timed(run, runs), _equal(output, judge))


def _equal(output: np.ndarray, judge: np.ndarray) -> float:
    return float((np.abs(output - judge) <= CLOSE * max(1.0, float(np.abs(judge).max()))).mean())


def _peer(
    framework: str, file: Path, judge: np.ndarray, arguments: argparse.Namespace
) -> tuple[list[float], float, dict[str, str]]:
    """In its own environment; RuntimeError says why it does not run."""
    if not arguments.spikingjelly:
        raise RuntimeError("no environment was given: --spikingjelly PYTHON")
    wanted = {"framework": framework, "file": str(file), "runs": arguments.runs, "threads": torch.get_num_threads()}
    command = [arguments.spikingjelly, str(PEER), json.dumps(wanted | {"device": arguments.device})]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(one_line((done.stderr.strip().splitlines() or ["it failed"])[-1])[:160])
    found = json.loads(done.stdout)
    return found["times"], _equal(np.load(f"{file}.{framework}.npy"), judge), found["versions"]


def _tensorrt() -> bool:
    """Is there a TensorRT to build with?"""
    from importlib.util import find_spec

    return find_spec("tensorrt") is not None or find_spec("tensorrt_rtx") is not None


def _report(results: list[Result], arguments: argparse.Namespace) -> None:
    """A row a contender and mode; the factor is SpikingJelly's time in the same mode over this one's."""
    where = common.environment("torch", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx")
    where["gpu"] = torch.cuda.get_device_name() if arguments.device == "cuda" else "none"
    table = Table("network, batch", "contender", "mode", "p50 ms", "p99 ms", "x SpikingJelly", "equal outputs")
    eager = {
        (r.network, r.batch, r.mode): statistics.median(r.times) for r in results if r.contender == EAGER and r.times
    }
    for r in results:
        first = f"{r.network}, {r.batch}"
        if r.skipped is not None:
            table.add_row(first, r.contender, r.mode, f"skipped: {r.skipped}")
            continue
        p50, p99 = np.percentile(r.times, [50, 99])
        factor = eager.get((r.network, r.batch, r.mode))
        ratio = "-" if factor is None else f"{factor / p50:.1f}"
        table.add_row(first, r.contender, r.mode, f"{p50:.2f}", f"{p99:.2f}", ratio, f"{r.equal:.1%}")
    Console(width=180).print(table)
    common.RESULTS.mkdir(exist_ok=True)
    path = common.RESULTS / f"{NAME}.json"
    data = {"environment": where, "options": vars(arguments), "results": [vars(result) for result in results]}
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    print(f"written: {path.relative_to(common.ROOT)}")


if __name__ == "__main__":
    sys.exit(main())
