"""Hours in minutes: 64 streams on one session, disturbed at random, compared with the reference as they go.

In each step some streams have a frame; between steps streams are reset, closed and opened, their states are taken and
put back, and now and then the whole device changes: the bundle is opened anew and goes on from a file of states. All of
it is done to ONNX Runtime and to the reference alike. Weights are multiples of 1/64 and frames of 1/16, so that sums do
not round and every output has to be the reference's, bit for bit. Exit code 1: memory grew by more than 1 %, or one is
not.

    python benchmarks/soak.py [--minutes 10] [--streams 64] [--network vgg5] [--threads 1]
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nir
import numpy as np
from common import environment, report
from streaming import bundle_of

import stdl_runtimes
from stdl_export.bundle import load as open_bundle
from stdl_runtimes import Runtime, Streams

NAME = "soak"
COLUMNS = (
    "minutes, streams", "steps", "frames", "resets", "reopened streams", "states put back", "bundles opened",
    "memory MiB", "growth", "outputs that differ",
)  # fmt: skip
RUNTIMES = ("onnxruntime", "reference")
MOST_GROWTH = 0.01
STEPS_A_BUNDLE = 200
WARM_UP = 0.2  # of the time: memory pools fill
EVENTS = {"resets": 0.01, "closings": 0.005, "takings": 0.01, "puttings": 0.01}  # for each stream and step


@dataclass
class Device:
    """A bundle opened in one runtime, and its streams."""

    runtime: Runtime
    streams: Streams

    @classmethod
    def of(cls, path: Path, name: str, most: int, threads: int) -> Device:
        """Opened from the folder, as a process that starts does it."""
        options = {"threads": str(threads)} if name == "onnxruntime" else None
        runtime = stdl_runtimes.load(open_bundle(path), name, options=options)
        streams = Streams(runtime, most)
        for _ in range(most):
            streams.open()
        return cls(runtime, streams)

    def close(self) -> None:
        """Give everything back."""
        self.streams.close()
        self.runtime.close()


@dataclass
class Soak:
    """What was done, and what came of it."""

    done: Counter[str] = field(default_factory=Counter)
    memory: list[tuple[float, int]] = field(default_factory=list)  # (seconds, bytes)

    def growth(self) -> float:
        """Median memory of the last fifth over that of the first fifth after the warm-up, less 1."""
        held = [size for seconds, size in self.memory if seconds >= WARM_UP * self.memory[-1][0]]
        fifth = max(1, len(held) // 5)
        return float(np.median(held[-fifth:]) / np.median(held[:fifth])) - 1


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--network", default="vgg5")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = bundle_of(arguments.network, Path(folder), rounded)
        shape = bundle.manifest.input.shape
        soak = run(bundle.path, shape, arguments.minutes * 60, arguments.streams, arguments.threads)
    growth, done = soak.growth(), soak.done
    row = [
        f"{arguments.minutes:g}, {arguments.streams}",
        *(str(done[key]) for key in ("steps", "frames", "resets", "closings", "puttings", "bundles")),
        f"{soak.memory[-1][1] / 2**20:.0f}",
        f"{growth:+.2%}",
        str(done["differ"]),
    ]
    data = {
        "environment": environment("onnxruntime", "numpy"), "options": vars(arguments), "done": dict(done),
        "growth": growth, "memory": soak.memory[:: max(1, len(soak.memory) // 200)],
    }  # fmt: skip
    report(NAME, f"soak of {arguments.network}, ONNX Runtime on the CPU", COLUMNS, [row], data)
    return int(growth > MOST_GROWTH or done["differ"] > 0)


def rounded(graph: nir.NIRGraph) -> nir.NIRGraph:
    """Weights and biases as multiples of 1/64."""
    for node in graph.nodes.values():
        for name in ("weight", "bias"):
            if isinstance(value := getattr(node, name, None), np.ndarray):
                setattr(node, name, (np.round(value * 64) / 64).astype(np.float32))
    return graph


def run(path: Path, shape: tuple[int, ...], seconds: float, most: int, threads: int) -> Soak:
    """Both devices through the same steps and disturbances, until the time is up."""
    soak, draws = Soak(), np.random.default_rng(0)
    frames = (draws.integers(-8, 24, (16, most, *shape)) / 16).astype(np.float32)
    begun, kept = time.monotonic(), {}
    devices = [Device.of(path, name, most, threads) for name in RUNTIMES]
    while (passed := time.monotonic() - begun) < seconds or not soak.memory:
        for at in range(STEPS_A_BUNDLE):
            disturb(devices, kept, draws, soak.done)
            ready = np.flatnonzero(draws.random(most) < draws.random())
            step(devices, {int(row): frames[at % len(frames), row] for row in ready}, soak.done)
            if time.monotonic() - begun > seconds:
                break
        devices = [reopened(device, path, name, threads) for device, name in zip(devices, RUNTIMES, strict=True)]
        soak.done["bundles"] += 1
        gc.collect()
        soak.memory.append((passed, resident()))
    for device in devices:
        device.close()
    return soak


def step(devices: list[Device], frames: dict[int, np.ndarray], done: Counter[str]) -> None:
    """One step of both; outputs that differ in any bit are counted."""
    ours, judge = (device.streams.step(frames) for device in devices)
    done["differ"] += sum(not np.array_equal(ours[row], judge[row]) for row in frames)
    done["steps"] += 1
    done["frames"] += len(frames)


def disturb(devices: list[Device], kept: dict[int, Any], draws: np.random.Generator, done: Counter[str]) -> None:
    """The same to both: what a day brings."""
    for event, share in EVENTS.items():
        for row in map(int, np.flatnonzero(draws.random(devices[0].streams.most) < share)):
            done[event] += 1
            for at, device in enumerate(devices):
                streams = device.streams
                if event == "resets":
                    streams.reset(row)
                elif event == "closings":
                    streams.close(row)
                    assert streams.open() == row
                elif event == "takings":
                    kept[row, at] = streams.state(row)
                elif (row, at) in kept:
                    streams.put_state(row, kept[row, at])


def reopened(device: Device, path: Path, name: str, threads: int) -> Device:
    """The bundle opened anew, with every stream's states through a file."""
    rows = range(device.streams.most)
    with tempfile.TemporaryDirectory() as folder, device.runtime.session(len(rows)) as session:
        for row in rows:
            session.write_state(device.streams.state(row), [row])
        session.save_state(Path(folder) / "states")
        device.close()
        fresh = Device.of(path, name, len(rows), threads)
        with fresh.runtime.session(len(rows)) as other:
            other.load_state(Path(folder) / "states")
            for row in rows:
                fresh.streams.put_state(row, other.read_state([row]))
    return fresh


def resident() -> int:
    """Bytes of memory that this process has now."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    sys.exit(main())
