"""A bundle on the board that this runs on: build its engine here, prove it, then let it run step by step.

    python run.py bundles/digits                        # build, validate, 10 seconds of single steps
    python run.py bundles/digits --batch 8 --report proof.html
    python run.py bundles/digits --runtime onnxruntime  # the same without TensorRT, on the CPU

What was asked for runs, or the first thing in its way is one line, and the exit code is that of the step that failed:
1 where a check failed, 2 where something is missing.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

import stdl_runtimes
from stdl_export import bundle as bundles
from stdl_export.cli import command as stdl_export
from stdl_export.common import console
from stdl_export.common.errors import CheckFailed
from stdl_runtimes.cli import command as stdl_validate
from stdl_runtimes.machine import power

MODEL = Path("/proc/device-tree/model")  # "NVIDIA Jetson Orin Nano Developer Kit"
RELEASE = Path("/etc/nv_tegra_release")  # "# R36 (release), REVISION: 4.3, ..."
MEMORY = Path("/proc/meminfo")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--runtime", default="tensorrt", show_default=True, help="What is to run it.")
@click.option("--batch", type=click.IntRange(1, 4096), default=1, show_default=True, help="Samples at once.")
@click.option("--seconds", type=click.FloatRange(0, 3600), default=10.0, show_default=True, help="Of single steps.")
@click.option("--report", type=click.Path(path_type=Path), help="Where the page of the validation goes.")
def main(bundle: Path, runtime: str, batch: int, seconds: float, report: Path | None) -> None:
    """Build, validate and run BUNDLE here."""
    _table("This board", board())
    if runtime == "tensorrt":
        _must("the engine", stdl_export, [str(bundle), "--target", "tensorrt", "--batch", f"1:{batch}:{batch}"])
    proof = ["--report", str(report)] if report else []
    _must("the proof", stdl_validate, [str(bundle), "--runtime", f"reference,{runtime}", "--require", runtime, *proof])
    _table(f"Single steps, {runtime}, batch {batch}", steps(bundle, runtime, batch, seconds))


def board() -> dict[str, str]:
    """What this is, and what decides how fast it is; lines that cannot be read are left out."""
    found = {"model": _read(MODEL), "L4T": _read(RELEASE).partition(", GCID")[0].removeprefix("# ")}
    free = [line.split()[1] for line in _read(MEMORY).splitlines() if line.startswith("MemAvailable:")]
    found |= {"free memory": f"{int(free[0]) >> 10} MiB"} if free else {}
    return {name: text for name, text in (found | power()).items() if text}


def steps(bundle: Path, runtime: str, batch: int, seconds: float) -> dict[str, str]:
    """Times of `session.step`, as a program that gets frame after frame sees them: copies and state included."""
    opened = bundles.load(bundle)
    with stdl_runtimes.load(opened, runtime) as network, network.session(batch) as session:
        frames = _frames(network, opened.golden().input, batch)
        for frame in itertools.islice(frames, 50):  # warm-up
            session.step(frame)
        session.reset()
        took = []
        until = time.perf_counter() + seconds
        for frame in frames:
            start = time.perf_counter()
            session.step(frame)
            took.append(time.perf_counter() - start)
            if start > until:
                break
        described = dict(network.describe())
    p50, p99 = np.percentile(took, [50, 99]) * 1e3
    return {"steps": f"{len(took)}", "p50": f"{p50:.3f} ms", "p99": f"{p99:.3f} ms"} | described


def _frames(network: Any, golden: Any, batch: int) -> Iterator[Any]:
    """Golden samples over and over, as many at once as asked for, one frame after the other."""
    arrays, length = network.ends.sequence(golden, network.ends.timesteps or None)
    chosen = np.resize(np.arange(network.ends.samples(arrays)), batch)
    return itertools.cycle(network.ends.steps(network.ends.taken(arrays, chosen), length))


def _must(what: str, command: click.Command, arguments: list[str]) -> None:
    if code := console.run(command, arguments):
        raise SystemExit(code) if code != 1 else CheckFailed(f"{what} failed: see above")


def _table(title: str, lines: dict[str, str]) -> None:
    table = Table(title=title, show_header=False)
    for name, text in lines.items():
        table.add_row(name, text)
    Console().print(table)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError:
        return ""


if __name__ == "__main__":
    sys.exit(console.run(main))
