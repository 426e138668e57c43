"""Memory of one training step: STDL, its rivals and BPTT, on the same network and batch, side by side in one run.

For each network, T and method, in a process of its own: bytes that autograd keeps for backward at the peak (hooks),
bytes of all live tensors at the peak (counted, and predicted from shapes alone), and what resident memory rose by.
Ratios are BPTT / method.

    python benchmarks/training_memory.py [--batch 16] [--networks vgg11,sew_resnet18] [--steps 4,8,16]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from common import environment, report

METHODS = ("bptt", "bptt-checkpoint", "online", "stdl")
MIB = 1 << 20


def main() -> None:
    """Run every configuration, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--networks", default="vgg11,sew_resnet18")
    parser.add_argument("--steps", default="4,8,16")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(**json.loads(arguments.one))))
        return
    results = []
    for network in arguments.networks.split(","):
        for steps in map(int, arguments.steps.split(",")):
            for method in METHODS:
                results.append(in_own_process(network=network, T=steps, method=method, batch=arguments.batch))
                print(".", end="", flush=True)
    print()
    data = {"environment": environment("torch"), "batch": arguments.batch, "results": results}
    columns = (
        "network, T, method", "kept for backward MiB", "BPTT/x", "live tensors MiB", "BPTT/x", "predicted/counted",
        "resident MiB", "BPTT/x", "time / BPTT",
    )  # fmt: skip
    title = f"one training step, 3x32x32, batch {arguments.batch}, AdamW, float32, CPU"
    report("training_memory", title, columns, rows(results), data)


def in_own_process(**configuration: Any) -> dict[str, Any]:
    """A fresh process each, so that resident memory starts from the same state."""
    command = [sys.executable, str(Path(__file__)), "--one", json.dumps(configuration)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return configuration | json.loads(done.stdout.splitlines()[-1])


def measure(network: str, T: int, method: Any, batch: int) -> dict[str, float]:
    """One configuration: resident memory and time of plain steps first, then a counted one."""
    import torch

    from stdl_models.nets.registry import build_network, network_spec
    from stdl_models.network import InputSpec
    from stdl_train.memory import count_step
    from stdl_train.methods.base import OptimizerOptions
    from stdl_train.methods.registry import build_method
    from stdl_train.plan import PlanRequest, make_plan

    torch.manual_seed(0)
    spec = network_spec(network, InputSpec(shape=(3, 32, 32)), tuple("0123456789"), T)
    plan = make_plan(spec, PlanRequest(method, batch, 4, OptimizerOptions()))
    frame, labels = torch.rand(batch, 3, 32, 32), torch.arange(batch) % 10
    # what importing and the first use of convolutions take is not the step's: do both before counting
    torch.nn.functional.conv2d(torch.rand(1, 3, 8, 8, requires_grad=True), torch.rand(3, 3, 3, 3)).sum().backward()
    before = resident()
    trainer = build_method(method, build_network(spec).train(), plan.parts, OptimizerOptions())
    for _ in range(2):  # the second has the optimizer's state; its time is taken
        begun = time.perf_counter()
        trainer.train_batch(frame, labels)
        seconds = time.perf_counter() - begun
    risen = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    counted = count_step(trainer, frame, labels)
    return {
        "saved": counted.saved, "live": counted.live, "fixed": counted.fixed, "predicted_live": plan.predicted.live,
        "predicted_saved": plan.predicted.saved, "resident": risen, "seconds": seconds,
        "copies": [list(part.copies) for part in plan.parts],
    }  # fmt: skip


def resident() -> int:
    """Bytes of resident memory now; the peak until now must not be higher, so it is reset where Linux allows it."""
    Path("/proc/self/clear_refs").write_text("5")
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def rows(results: list[dict[str, Any]]) -> list[list[str]]:
    """One row a configuration, ratios against BPTT of the same network and T."""
    bptt = {(r["network"], r["T"]): r for r in results if r["method"] == "bptt"}
    table = []
    for r in results:
        base = bptt[r["network"], r["T"]]
        cells = [f"{r['network']}, {r['T']}, {r['method']}"]
        cells += [f"{r['saved'] / MIB:.1f}", f"{base['saved'] / r['saved']:.2f}"]
        cells += [f"{r['live'] / MIB:.1f}", f"{base['live'] / r['live']:.2f}", f"{r['predicted_live'] / r['live']:.4f}"]
        cells += [f"{r['resident'] / MIB:.0f}", f"{base['resident'] / r['resident']:.2f}"]
        cells += [f"{r['seconds'] / base['seconds']:.2f}"]
        table.append(cells)
    return table


if __name__ == "__main__":
    main()
