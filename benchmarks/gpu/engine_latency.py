"""What an engine's time is made of, as trtexec reports it: copies to the device, compute, copies back, enqueue.

Engines for whole sequences in every time form (unrolled, a Scan, a Scan of chunks) and for single steps, for one batch
size each. "Compute" and the copies are told by events on the device, "enqueue" is what the host spends to hand the work
over, "wall" is a run as the caller sees it. Also how long the build took, how large the engine is, and what it holds of
the device's memory. With CUDA graphs and without.

    python benchmarks/gpu/engine_latency.py [BUNDLE] [--network vgg11] [--timesteps 16] [--batches 1,128]
        [--forms unroll,scan,chunks,step] [--runs 200]

Without a bundle the network is made by PyTorch, with random weights that spike. A form that does not build or run is
named with the reason; `--without-gpu` builds (with TensorRT-RTX) and leaves the times out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import cast

import nir
import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))
import common

import stdl_runtimes
from stdl_export import bundle as bundles
from stdl_export import graph as graphs
from stdl_export import tensorrt, tensorrt_build, tensorrt_cache
from stdl_export.assemble import create
from stdl_export.bundle import Bundle
from stdl_export.common.errors import StdlError, Unavailable, one_line
from stdl_export.golden import choose
from stdl_export.onnx import lower
from stdl_export.onnx.time import TimeForm
from stdl_export.source import Source
from stdl_export.targets import Job
from stdl_runtimes import cuda, machine

NAME = "engine_latency"
PARTS = ("h2d", "compute", "d2h", "enqueue", "wall")
WARM_UP = 20

Call = Callable[[], Mapping[str, float]]


@dataclass
class Result:
    """One engine, and each part of each run in milliseconds; or why there is none."""

    form: str
    batch: int
    build_s: float = 0.0
    engine_mib: float = 0.0
    device_mib: float | None = None
    cuda_graph: str = ""
    parts: dict[str, list[float]] = field(default_factory=dict)
    skipped: str | None = None


def main(given: list[str] | None = None) -> int:
    """Every form and batch, then the table."""
    arguments = _arguments(given)
    if not arguments.without_gpu:
        try:
            tensorrt.flavour()
            cuda.open_device()
        except Unavailable as reason:
            print(f"{NAME}: {reason}; run it on a machine with a GPU, or --without-gpu", file=sys.stderr)
            return 1
    graph, name = _network(arguments)
    results = [
        result
        for form in arguments.forms.split(",")
        for batch in map(int, arguments.batches.split(","))
        for result in measure(graph, form, batch, arguments)
    ]
    _report(results, name, arguments)
    return 0


def _arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", type=Path)
    parser.add_argument("--network", default="vgg11")
    parser.add_argument("--timesteps", type=int, default=16)
    parser.add_argument("--batches", default="1,128")
    parser.add_argument("--forms", default="unroll,scan,chunks,step")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--without-gpu", action="store_true", help="Build only.")
    parser.add_argument("--results", type=Path, default=common.RESULTS, help="Where the JSON goes.")
    return parser.parse_args(given)


def _network(arguments: argparse.Namespace) -> tuple[nir.NIRGraph, str]:
    if arguments.bundle is not None:
        opened = bundles.load(arguments.bundle)
        return opened.graph(), opened.manifest.network
    from inference_latency import spiking  # PyTorch

    from stdl_export.from_torch import to_nir

    network, _ = spiking(arguments.network, 1, arguments.timesteps)
    graph = to_nir(network)
    said = replace(graphs.settings(graph), T=arguments.timesteps, input="sequence")
    return graphs.with_settings(graph, said), arguments.network


def measure(graph: nir.NIRGraph, form: str, batch: int, arguments: argparse.Namespace) -> Iterator[Result]:
    """One engine, with CUDA graphs and without."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            bundle, seconds = _built(graph, form, batch, Path(folder) / "bundle")
        except StdlError as error:
            yield Result(form, batch, skipped=one_line(str(error)))
            return
        size = bundle.file(bundle.manifest.engines[0].file).stat().st_size / (1 << 20)
        for graph_wanted in ("true", "false"):
            result = Result(form, batch, seconds, size)
            if arguments.without_gpu:
                yield replace(result, skipped="built, not run: --without-gpu")
                return
            try:
                _timed(bundle, graph_wanted, result, arguments.runs)
            except StdlError as error:
                result.skipped = one_line(str(error))
            yield result


def _built(graph: nir.NIRGraph, form: str, batch: int, folder: Path) -> tuple[Bundle, float]:
    """A bundle with the engine, and how long the build took: it is built here, and then found in the engine cache."""
    flavour, profile = tensorrt.flavour(), tensorrt.Profile(batch, batch, batch)
    step, time_form = form == "step", cast(TimeForm, "auto" if form == "step" else form)
    model = (lower.step(graph) if step else lower.sequence(graph, time_form)).SerializeToString()
    start = time.perf_counter()
    engine = tensorrt_build.build(flavour, model, f"the {form} graph", profile, tensorrt.DEFAULTS)
    seconds = time.perf_counter() - start
    tensorrt_cache.ENGINES.put(tensorrt_cache.key(flavour, model, profile, tensorrt.DEFAULTS), engine)
    job = Job(graph, ("step",) if step else ("sequence",), time_form, profile, "fp32")
    golden, origin = choose(graph, None, None, 2)
    bundle, _ = create(folder, Source(graph, "network"), job, ["tensorrt"], golden, origin)
    return bundle, seconds


def _timed(bundle: Bundle, graph_wanted: str, result: Result, runs: int) -> None:
    """Parts of each run, and the wall time of each of as many runs without events."""
    with stdl_runtimes.load(bundle, "tensorrt", options={"cuda_graph": graph_wanted}) as runtime:
        x, length = runtime.ends.sequence(np.resize(bundle.golden().input, _shape(bundle, result.batch)))
        if result.form == "step":
            with runtime.session(result.batch) as session:
                frames = runtime.ends.steps(x, length)[0]
                _collect(lambda: session.timed_parts(frames), lambda: session.step(frames), result, runs)  # type: ignore[attr-defined]
                _describe(runtime, result)
        else:
            _collect(lambda: runtime.timed_parts(x, length), lambda: runtime.outputs(x, length), result, runs)
            _describe(runtime, result)


def _describe(runtime: stdl_runtimes.Runtime, result: Result) -> None:
    held = runtime.device_bytes()
    result.device_mib = None if held is None else held / (1 << 20)
    mode = "step" if result.form == "step" else "sequence"
    result.cuda_graph = runtime.describe()[f"{mode} cuda_graph"]


def _shape(bundle: Bundle, batch: int) -> tuple[int, ...]:
    shape = bundle.manifest.input.shape
    return (
        (batch, *shape) if bundle.manifest.input.mode == "repeat" else (bundle.manifest.timesteps or 1, batch, *shape)
    )


def _collect(parts: Call, run: Callable[[], object], result: Result, runs: int) -> None:
    for _ in range(WARM_UP):
        parts()
    found = [parts() for _ in range(runs)]
    result.parts = {name: [each[name] for each in found] for name in PARTS[:-1]}
    wall = []
    for _ in range(runs):
        start = time.perf_counter_ns()
        run()
        wall.append((time.perf_counter_ns() - start) / 1e6)
    result.parts["wall"] = wall


def _report(results: list[Result], name: str, arguments: argparse.Namespace) -> None:
    """Median of each part and p99 of the wall time, as a table and as JSON with every run."""
    columns = ["form", "batch", "CUDA graph", "build s", "engine MiB", "device MiB", *PARTS, "wall p99"]
    table = Table(title=f"{name}: milliseconds, median of {arguments.runs} runs")
    for column in columns:
        table.add_column(column)
    for each in results:
        start = [each.form, str(each.batch), each.cuda_graph, f"{each.build_s:.1f}", f"{each.engine_mib:.1f}"]
        if each.skipped:
            table.add_row(*start, each.skipped)
            continue
        device = "-" if each.device_mib is None else f"{each.device_mib:.0f}"
        median = [f"{statistics.median(each.parts[part]):.3f}" for part in PARTS]
        table.add_row(*start, device, *median, f"{np.percentile(each.parts['wall'], 99):.3f}")
    Console(width=160).print(table)
    here = common.environment("tensorrt", "tensorrt_rtx", "cuda-bindings") | {"power": machine.power()}
    data = {"environment": here, "network": name, "results": [asdict(each) for each in results]}
    arguments.results.mkdir(exist_ok=True)
    path = arguments.results / f"{NAME}.json"
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    print(f"written: {path}")


if __name__ == "__main__":
    sys.exit(main())
