"""Validations as `stdl-validate` would find them, made up: one that holds, and one that fails with the worst names."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from stdl_runtimes.efficiency_result import Efficiency, EnergyModel, LayerCost
from stdl_runtimes.latency_result import Histogram, Latency, Times
from stdl_runtimes.metrics import change, proportion
from stdl_runtimes.picture_data import Confusion
from stdl_runtimes.pictures import raster
from stdl_runtimes.results import Check, Difference, Hop, LayerLine, LayerResult, Machine, Report, RuntimeLine

EVIL = '<script>document.title="taken"</script>"><img src=x onerror=alert(1)>\'&amp;</svg></style>'
LONG = "a/very/deep/sub-graph/of/" * 6 + "lif"


def times(p50: float, n: int = 1200) -> Times:
    return Times(n, p50 * 1.1, p50 * 0.9, p50 * 30, p50, p50 * 1.2, p50 * 8, p50 * 20 if n >= 1000 else None, 0.4)


def latency(p50: float) -> Latency:
    edges = np.geomspace(p50 * 0.9, p50 * 8, 41)
    counts = [int(500 / (1 + (bin - 4) ** 2)) for bin in range(40)]
    return Latency(4, 40, True, times(p50), times(p50 / 4), Histogram(edges.tolist(), counts))


def layers(nodes, runtimes, rng) -> list[LayerLine]:
    """With flips in the second runtime, and none that could be judged in the last of three."""
    found = []
    for depth, node in enumerate(nodes):
        spikes = int(rng.integers(1000, 9000))
        results = {}
        for number, name in enumerate(runtimes):
            flips = None if number == 2 else int(number == 1) * 10 ** (depth % 5)
            drift = 0.0 if number == 0 else 0.01 * number
            rate = spikes / 40_000 + drift
            budget = None if flips is None else 0.0002
            results[name] = LayerResult(
                int(rate * 40_000), rate, drift, number, flips, None if flips is None else 3 * number, 40_000, budget
            )
        found.append(LayerLine(node, 1000, spikes, spikes / 40_000, results))
    return found


def efficiency(nodes) -> Efficiency:
    found = []
    for depth, node in enumerate(nodes):
        dense, acs, macs = 1e6 / (depth + 1), 2e5 / (depth + 1), 3e4 if depth == 0 else 0.0
        found.append(
            LayerCost(node, "Conv2d", dense, macs, acs, 0.2, weights=900, parameter_bytes=3600, stored_bytes=3600)
        )
    total = LayerCost("total", "", 2e6, 3e4, 4e5, sparsity=0.8, updates=1e4, weights=2700, parameter_bytes=10_800)
    return Efficiency(40, 4, found, total, 0.1, 12_000, EnergyModel())


def small() -> Report:
    """All checks hold."""
    rng = np.random.default_rng(1)
    nodes = ["conv1.lif", "conv2.lif", "fc.lif"]
    right = rng.random(40) < 0.9
    spikes = {node: rng.random((4, 2, 300)) < 0.2 for node in nodes}
    lines = [
        RuntimeLine("trained (PyTorch)", None, proportion(right)),
        RuntimeLine(
            "reference", "sequence", proportion(right), change(right, right), proportion(right | True), 0, 0, 0
        ),
        RuntimeLine(
            "onnxruntime", "sequence", proportion(right), change(right, right), proportion(right | True), 0, 0, 3
        ),
    ]
    timed = [replace(line, latency=latency(0.2), options={"threads": "1"}) for line in lines[1:]]
    cells = [(int(label), int(label), 4) for label in range(9)] + [(9, 9, 3), (9, 4, 1)]
    classes = [str(label) for label in range(10)]
    return Report(
        network="vgg5", bundle="bundle", samples=40, timesteps=4, data=None, data_samples=0,
        runtimes=[lines[0], *timed], layers=layers(nodes, ["reference"], rng),
        hops=[Hop("trained (PyTorch)", "reference", 40, 40, 0.0, None, passed=True)], skipped={"tensorrt": "no engine"},
        checks=[Check("agreement", "reference", True, "0 of 40 predictions differ")],
        machine=Machine("Linux", "x86_64", 2, 1 << 33, {}), versions={"python": "3.11", "numpy": "2.1"},
        hashes={"graph.nir": "0123456789abcdef" * 4}, date="2026-01-02T03:04:05+00:00",
        efficiency=efficiency(["conv1", "conv2", "fc"]), raster=raster(spikes, 0, at=0),
        confusions=[Confusion("golden samples", ["trained (PyTorch)", "reference"], classes, cells)],
    )  # fmt: skip


def nasty() -> Report:
    """Checks fail, names are markup or far too long, there are many layers, classes, runtimes and steps."""
    rng = np.random.default_rng(2)
    nodes = [EVIL, LONG, "ü\n\u202e{x}%s", "\ud800", *(f"block{number}.lif" for number in range(30))]
    runtimes = ["reference", EVIL, LONG]
    right = rng.random(40) < 0.5
    lines = [
        RuntimeLine(name, "step", proportion(right), change(right, ~right), proportion(right), 10**9, 10**6, 10**6,
                    rate_drift=-0.2, data_accuracy=proportion(right), data_agreement=proportion(~right),
                    latency=replace(latency(3e-5 * 1000**number), stable=False), options={EVIL: LONG})
        for number, name in enumerate(runtimes)
    ]  # fmt: skip
    classes = [f"{EVIL}{number}" for number in range(100)]
    many = [(each, (each * 7) % 100, each + 1) for each in range(100)]
    spikes = {node: rng.random((900, 1, 70)) < 0.1 for node in nodes[:4]}
    first = Difference(EVIL, 3, 7, (1, 2, 3), 1.0, 0.0, 0.4)
    return Report(
        network=EVIL, bundle=LONG, samples=40, timesteps=900, data=EVIL, data_samples=10_000, runtimes=lines,
        layers=layers(nodes, runtimes, rng),
        hops=[
            Hop(EVIL, LONG, 40, 3, None, first, passed=False),
            *(Hop(LONG, f"{number}{EVIL}", 10**9, 10**9 - 1, 0.1, None, passed=True) for number in range(3)),
            Hop(f"1{EVIL}", "deeper", 40, 40, 0.0, None, passed=True), Hop("a", "b", 1, 1, 0.0, None, passed=True),
            Hop("round", "about", 1, 1, 0.0, None, passed=True), Hop("about", "round", 1, 0, 0.0, None, passed=False),
        ], skipped={EVIL: f"{LONG} {EVIL}"},
        checks=[
            Check("agreement", "reference", True, "fine"),
            Check("flips", EVIL, False, f"5 of 100 spikes of '{LONG}' flipped", "flips", 0.05),
            Check(EVIL, LONG, False, EVIL),
        ],
        machine=Machine(EVIL, LONG, 128, None, {EVIL: LONG}), versions={EVIL: LONG},
        hashes={EVIL: "ab" * 32, LONG: "cd" * 32}, date=EVIL, efficiency=efficiency(nodes),
        raster=raster(spikes, 0, at=39),
        confusions=[
            Confusion(EVIL, runtimes, classes, many),
            Confusion("few", [EVIL], [EVIL, LONG, "ok"], [(0, 0, 10**6), (0, 2, 3), (1, 1, 4), (2, 0, 5)]),
            Confusion("animals", ["y"], ["airplane", "automobile", "bird", "cat", "deer"], [(0, 0, 9), (3, 4, 2)]),
            Confusion("two dozen", ["x"], [f"class{number}" for number in range(24)], [(1, 2, 3), (2, 2, 5)]),
        ],
    )  # fmt: skip
