"""Time of one training step relative to BPTT: same network, batch and machine, steps of all methods taking turns.

Beside the ratio of times stands the ratio of multiply-accumulates, forward and backward: what auxiliary networks
compute on top. Their quotient is what the order of work costs (above 1) or gains (below). Medians over the rounds.

    python benchmarks/training_time.py [--settings vgg5,vgg11,sew_resnet18,sew_resnet34] [--rounds 7]
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
from common import environment, report

from stdl_models.nets.registry import build_network, network_spec
from stdl_models.network import InputSpec
from stdl_train.methods.base import Method, MethodOptions
from stdl_train.methods.registry import build_method
from stdl_train.plan import PlanRequest, predict
from stdl_train.plan_search import make_plan

T = 4

METHODS: dict[str, dict[str, Any]] = {
    "bptt": {"method": "bptt"},
    "bptt-checkpoint": {"method": "bptt-checkpoint"},
    "online": {"method": "online", "time_chunk": 1},
    "local": {"method": "local", "time_chunk": 1},
    "stdl, time_chunk 1": {"method": "stdl", "time_chunk": 1},
    "stdl, time_chunk T": {"method": "stdl", "time_chunk": T},
    "stdl, 2 copies, time_chunk 1": {"method": "stdl", "time_chunk": 1, "most_copies": 2},
    "stdl, 2 copies, time_chunk T": {"method": "stdl", "time_chunk": T, "most_copies": 2},
    "stdl, 2 copies, half width, time_chunk T": {"method": "stdl", "time_chunk": T, "most_copies": 2, "width": 0.5},
}
"""What is compared; STDL with K=4 (vgg5: 3) and four copies (the default) or two."""

SETTINGS: dict[str, dict[str, Any]] = {
    "vgg5": {"shape": (1, 8, 8), "classes": 10, "batch": 50, "subnetworks": 3, "options": {}},
    "vgg11": {"shape": (3, 32, 32), "classes": 10, "batch": 16, "subnetworks": 4, "options": {}},
    "sew_resnet18": {"shape": (3, 32, 32), "classes": 10, "batch": 8, "subnetworks": 4, "options": {}},
    "sew_resnet34": {
        "shape": (3, 224, 224), "classes": 1000, "batch": 4, "subnetworks": 4, "options": {"stem": "imagenet"},
    },
}  # fmt: skip


def main() -> None:
    """Every network, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", default=",".join(SETTINGS))
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_flush_denormal(True)  # as in training
    results = [result for name in arguments.settings.split(",") for result in compare(name, arguments.rounds)]
    data = {"environment": environment("torch"), "threads": torch.get_num_threads(), "rounds": arguments.rounds,
            "settings": SETTINGS, "results": results}  # fmt: skip
    columns = ("network, batch, method", "seconds", "time / BPTT", "operations / BPTT", "quotient")
    report("training_time", f"one training step, T={T}, float32, CPU", columns, rows(results), data)


def compare(name: str, rounds: int) -> list[dict[str, Any]]:
    """Seconds of a step and its multiply-accumulates, for each method on one network."""
    setting = SETTINGS[name]
    classes = tuple(map(str, range(setting["classes"])))
    spec = network_spec(name, InputSpec(shape=setting["shape"]), classes, T, options=setting["options"])
    batch, told = setting["batch"], MethodOptions()
    frame, labels = torch.rand(batch, *setting["shape"]), torch.arange(batch) % setting["classes"]
    methods: dict[str, Method] = {}
    operations = {}
    for method, chosen in METHODS.items():
        splits = {"subnetworks": setting["subnetworks"]} if chosen["method"] in ("stdl", "local") else {}
        plan = make_plan(spec, PlanRequest(batch=batch, options=told, **splits, **chosen))
        torch.manual_seed(0)
        methods[method] = build_method(chosen["method"], build_network(spec).train(), plan.layout, told)
        operations[method] = predict(spec, chosen["method"], plan.layout, batch, told, operations=True).operations
    seconds: dict[str, list[float]] = {method: [] for method in METHODS}
    for index in range(rounds + 1):
        for method, trainer in methods.items():
            begun = time.perf_counter()
            trainer.train_batch(frame, labels)
            if index:  # the first round makes optimizer states and warms caches up
                seconds[method].append(time.perf_counter() - begun)
    print(f"{name} done", flush=True)
    return [
        {"network": name, "batch": batch, "method": m, "seconds": seconds[m], "operations": operations[m]}
        for m in METHODS
    ]


def rows(results: list[dict[str, Any]]) -> list[list[str]]:
    """One row a network and method; ratios round by round, then their median."""
    bptt = {result["network"]: result for result in results if result["method"] == "bptt"}
    table = []
    for result in results:
        base = bptt[result["network"]]
        ratio = statistics.median(a / b for a, b in zip(result["seconds"], base["seconds"], strict=True))
        more = result["operations"] / base["operations"]
        name = f"{result['network']}, {result['batch']}, {result['method']}"
        seconds = statistics.median(result["seconds"])
        table.append([name, f"{seconds:.3f}", f"{ratio:.2f}", f"{more:.2f}", f"{ratio / more:.2f}"])
    return table


if __name__ == "__main__":
    main()
