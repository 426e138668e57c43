"""Single steps with the state kept in between, for 1, 8 and 64 streams: how many a second, and what our session adds.

A step is a frame [streams, C, H, W] as NumPy array in, outputs [streams, classes] as NumPy array out. The bare call is
`InferenceSession.run` of ONNX Runtime on the same step graph with the states handed from one call to the next, and as
many threads. Both take turns in one loop, and the overhead is the median of the differences: of the calling thread's
processor time with one thread, which other work on the machine does not disturb, else of time on the clock. `Streams`
is the same session shared by streams, of which in each step seven in ten have a frame.

    python benchmarks/streaming.py [--networks vgg5,vgg11] [--streams 1,8,64] [--seconds 5] [--threads 1]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nir
import numpy as np
from common import environment, report
from inference_latency import spiking

import stdl_runtimes
from stdl_export import graph as graphs
from stdl_export.bundle import Bundle
from stdl_export.bundle import load as open_bundle
from stdl_export.cli import command
from stdl_export.common import console
from stdl_export.from_torch import to_nir
from stdl_runtimes import Streams

NAME = "streaming"
COLUMNS = (
    "network, streams", "step p50 µs", "p99 µs", "steps/s", "frames/s", "bare call p50 µs", "our overhead µs",
    "overhead", "`Streams` p50 µs",
)  # fmt: skip
WALL, CPU = 0, 1  # of what is measured
WARM_UP, FEWEST = 20, 50  # steps
SHARE = 0.7  # of the streams that have a frame

Step = Callable[[], Any]


def main() -> None:
    """Every network with every number of streams, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="vgg5,vgg11")
    parser.add_argument("--streams", default="1,8,64")
    parser.add_argument("--seconds", type=float, default=5, help="Of each pair of contenders.")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    results = []
    for name in arguments.networks.split(","):
        with tempfile.TemporaryDirectory() as folder:
            bundle = bundle_of(name, Path(folder))
            for streams in map(int, arguments.streams.split(",")):
                found = measure(bundle, streams, arguments.threads, arguments.seconds)
                results.append({"network": name, **found})
    data = {"environment": environment("onnxruntime", "numpy"), "options": vars(arguments), "results": results}
    title = f"single steps, ONNX Runtime on the CPU, {arguments.threads} threads"
    report(NAME, title, COLUMNS, [_row(result) for result in results], data)


def bundle_of(name: str, folder: Path, change: Callable[[nir.NIRGraph], nir.NIRGraph] = lambda graph: graph) -> Bundle:
    """A bundle of an untrained network in which every layer spikes, perhaps changed, that takes frame after frame."""
    graph = change(to_nir(spiking(name, 1, 4)[0]))
    return exported(graphs.with_settings(graph, replace(graphs.settings(graph), T=None, input="sequence")), folder)


def exported(graph: nir.NIRGraph, folder: Path, *options: str) -> Bundle:
    """The graph through the command, with one golden sample."""
    graphs.write(graph, folder / "network.nir")
    given = options or ("--target", "onnx")
    arguments = [str(folder / "network.nir"), *given, "--golden", "1", "--out", str(folder / "bundle")]
    with contextlib.redirect_stdout(io.StringIO()):  # its own table
        if console.run(command, arguments):
            raise SystemExit("the network was not exported")
    return open_bundle(folder / "bundle")


def measure(bundle: Bundle, streams: int, threads: int, seconds: float) -> dict[str, Any]:
    """Percentiles in microseconds of one step, of the bare call, and of their differences."""
    shape = bundle.manifest.input.shape
    frames = np.random.default_rng(0).normal(0.5, 1, (8, streams, *shape)).astype(np.float32)
    with (
        stdl_runtimes.load(bundle, options={"threads": str(threads)}) as runtime,
        runtime.session(streams) as session,
        Streams(runtime, streams) as shared,
    ):
        bare_call, some = bare_step(bundle, frames[0], threads), streams_step(shared, frames)
        ours, bare = _turns(lambda: session.step(frames[0]), bare_call, seconds=seconds)
        (many,) = _turns(some, seconds=seconds / 2)
    clock = CPU if threads == 1 else WALL
    extra = float(np.median((ours - bare)[:, clock]))
    share = extra / float(np.median(bare[:, clock]))
    ours, bare, many = (times[:, WALL] for times in (ours, bare, many))
    return {
        "streams": streams,
        "p50_us": float(np.median(ours)),
        "p99_us": float(np.percentile(ours, 99)),
        "steps": len(ours),
        "bare_p50_us": float(np.median(bare)),
        "bare_p99_us": float(np.percentile(bare, 99)),
        "overhead_us": extra,
        "overhead": share,
        "overhead_clock": ("wall", "thread")[clock],
        "streams_p50_us": float(np.median(many)),
    }


def bare_step(bundle: Bundle, frame: np.ndarray, threads: int) -> Step:
    """ONNX Runtime as one would call it without us."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    model = onnxruntime.InferenceSession(
        str(bundle.file("model.step.onnx")), options, providers=["CPUExecutionProvider"]
    )
    infos = bundle.manifest.states
    names = [bundle.manifest.output.tensors[0].name, *(info.output for info in infos)]
    kept = {info.input: np.zeros((len(frame), *info.shape), info.dtype) for info in infos}
    into = bundle.manifest.input.tensors[0].name

    def step() -> Any:
        nonlocal kept
        output, *after = model.run(names, {into: frame, **kept})
        kept = {info.input: state for info, state in zip(infos, after, strict=True)}
        return output

    return step


def streams_step(shared: Streams, frames: np.ndarray) -> Step:
    """Some of the streams get a frame, others in every step."""
    draws = np.random.default_rng(1)
    rows = [shared.open() for _ in range(shared.most)]
    ready = [[row for row in rows if draws.random() < SHARE] or rows[:1] for _ in frames]
    at = 0

    def step() -> Any:
        nonlocal at
        at = (at + 1) % len(frames)
        return shared.step({row: frames[at, row] for row in ready[at]})

    return step


def _turns(*steps: Step, seconds: float) -> list[np.ndarray]:
    """Microseconds [calls, 2] of each contender, on the clock and of this thread's processor time, in turns."""
    times: list[list[tuple[int, int]]] = [[] for _ in steps]
    for _ in range(WARM_UP):
        for step in steps:
            step()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < FEWEST:
        for step, found in zip(steps, times, strict=True):
            begun, worked = time.perf_counter_ns(), time.thread_time_ns()
            step()
            found.append((time.perf_counter_ns() - begun, time.thread_time_ns() - worked))
    return [np.array(found) / 1e3 for found in times]


def _row(result: dict[str, Any]) -> list[str]:
    rate = 1e6 / result["p50_us"]
    return [
        f"{result['network']}, {result['streams']}",
        *(f"{result[key]:.0f}" for key in ("p50_us", "p99_us")),
        f"{rate:.0f}",
        f"{rate * result['streams']:.0f}",
        f"{result['bare_p50_us']:.0f}",
        f"{result['overhead_us']:.1f}",
        f"{result['overhead']:.1%}",
        f"{result['streams_p50_us']:.0f}",
    ]


if __name__ == "__main__":
    main()
