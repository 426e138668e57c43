"""Memory of one training step: STDL, its rivals and BPTT, on the same network and batch, side by side in one run.

Each network, T and method runs in a process of its own, on a small batch: bytes that autograd keeps for backward at the
peak (hooks), bytes of all live tensors at the peak, both counted and predicted from shapes alone, and what resident
memory rose by. Because predicted and counted bytes are the same, the large batch that the table's totals are for is
only predicted, as is its double, which gives the bytes per sample there. SpikingJelly's BPTT, with and without its
memory optimisation, stands beside them where --spikingjelly names the Python of an environment that has it
(benchmarks/peers/spikingjelly_memory.py); it is counted on two small batches, and its totals are extrapolated.

    python benchmarks/training_memory.py [--settings vgg11,sew_resnet18,sew_resnet34] [--steps 4,8,16]
                                         [--spikingjelly PYTHON] [--resume]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from common import ROOT, environment, keep, kept, report

METHODS: dict[str, dict[str, Any]] = {
    "bptt": {"method": "bptt"},
    "bptt-checkpoint": {"method": "bptt-checkpoint"},
    "online": {"method": "online"},
    "online-checkpoint": {"method": "online-checkpoint"},
    "stdl": {"method": "stdl"},
    "stdl, 2 copies": {"method": "stdl", "copies": 2},
    "stdl, 2 copies, half width": {"method": "stdl", "copies": 2, "width": 0.5},
    "stdl, 2 copies, time-major": {"method": "stdl", "copies": 2, "order": "time"},
}
"""What is compared; STDL with K=4 and four copies (the default) or two, all one time step at a time."""

SETTINGS: dict[str, dict[str, Any]] = {
    "vgg11": {"size": 32, "classes": 10, "optimizer": "adamw", "batch": 8, "total": 128, "options": {}},
    "sew_resnet18": {"size": 32, "classes": 10, "optimizer": "adamw", "batch": 8, "total": 128, "options": {}},
    "sew_resnet34": {
        "size": 224, "classes": 1000, "optimizer": "sgd", "batch": 1, "total": 32, "options": {"stem": "imagenet"},
    },
}  # fmt: skip
"""Networks; `batch` is run (and its double, for peers), `total` is the batch that the table's totals are for."""

PEERS = {"spikingjelly": False, "spikingjelly, optimised": True}
MIB = 1 << 20


def main() -> None:
    """Run every configuration, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", default=",".join(SETTINGS))
    parser.add_argument("--steps", default="4,8,16")
    parser.add_argument("--spikingjelly", help="Python of an environment with SpikingJelly")
    parser.add_argument("--resume", action="store_true", help="go on behind what a stopped run has measured")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(**json.loads(arguments.one))))
        return
    results = kept("training_memory", arguments.resume)
    done = {(r["network"], r["T"], r["method"]) for r in results}
    peers = dict.fromkeys(PEERS, arguments.spikingjelly) if arguments.spikingjelly else {}
    for network in arguments.settings.split(","):
        for steps in map(int, arguments.steps.split(",")):
            for method, peer in (dict.fromkeys(METHODS) | peers).items():
                if (network, steps, method) not in done:
                    results.append(compare(network, steps, method, peer))
                    keep("training_memory", results)
            print(f"{network}, T={steps}", flush=True)
    order = {network: index for index, network in enumerate(SETTINGS)}
    results.sort(key=lambda r: (order[r["network"]], r["T"]))  # stable: methods stay as they are
    if not arguments.spikingjelly:
        print("spikingjelly left out: no --spikingjelly PYTHON")
    data = {"environment": environment("torch"), "settings": SETTINGS, "results": results}
    columns = (
        "network, batch, T, method", "total MiB", "BPTT/x", "MiB/sample", "BPTT/x", "kept MiB/sample", "BPTT/x",
        "predicted/counted", "resident MiB",
    )  # fmt: skip
    report("training_memory", "one training step, float32, CPU", columns, rows(results), data)


def compare(network: str, T: int, method: str, peer: str | None) -> dict[str, Any]:
    """One configuration: what was counted on the small batch, and bytes in total and per sample at the large one."""
    setting = SETTINGS[network]
    batch, total = setting["batch"], setting["total"]
    small = in_own_process(network, T, method, batch, peer)
    found = {"network": network, "T": T, "method": method, "small": small}
    if peer is None:
        large, double = small.pop("large"), small.pop("double")
        each = {key: (double[key] - large[key]) / total for key in ("live", "saved")}
        return found | {"total": large["live"], "per_sample": each["live"], "kept_per_sample": each["saved"]}
    more = in_own_process(network, T, method, 2 * batch, peer)
    each = {key: (more[key] - small[key]) / batch for key in ("live", "saved")}
    whole = small["live"] + (total - batch) * each["live"]
    return found | {"total": whole, "per_sample": each["live"], "kept_per_sample": each["saved"]}


def in_own_process(network: str, T: int, method: str, batch: int, peer: str | None) -> dict[str, Any]:
    """A fresh process each, so that resident memory starts from the same state."""
    setting = SETTINGS[network]
    arguments = {"network": network, "T": T, "batch": batch} | {k: setting[k] for k in ("size", "classes", "optimizer")}
    if peer:
        script = Path(__file__).parent / "peers" / "spikingjelly_memory.py"
        command = [peer, str(script), json.dumps(arguments | {"optimise": PEERS[method]})]
    else:
        one = arguments | {"total": setting["total"], "options": setting["options"], "chosen": METHODS[method]}
        command = [sys.executable, __file__, "--one", json.dumps(one)]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "models"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": paths})
    if done.returncode:
        raise SystemExit(f"{network}, T={T}, {method}: {done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(
    network: str, size: int, T: int, batch: int, total: int, classes: int, optimizer: Any, options: dict[str, Any],
    chosen: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """One configuration: resident memory of plain steps first, then a counted one, then the large batches."""
    import torch

    from stdl_models.nets.registry import build_network, network_spec
    from stdl_models.network import InputSpec
    from stdl_train.memory import count_step
    from stdl_train.methods.base import MethodOptions, OptimizerOptions
    from stdl_train.methods.registry import build_method
    from stdl_train.plan import PlanRequest, predict
    from stdl_train.plan_search import make_plan

    torch.manual_seed(0)
    names = tuple(map(str, range(classes)))
    spec = network_spec(network, InputSpec(shape=(3, size, size)), names, T, options=options)
    rule = OptimizerOptions(name=optimizer, lr=1e-3)
    method, told = chosen["method"], MethodOptions(optimizer=rule, order=chosen.get("order", "subnetwork"))
    wanted = PlanRequest(
        method=method, batch=batch, options=told, width=chosen.get("width"), most_copies=chosen.get("copies")
    )
    plan = make_plan(spec, wanted)
    frame, labels = torch.rand(batch, 3, size, size), torch.arange(batch) % classes
    # what importing and the first use of convolutions take is not the step's: do both before counting
    torch.nn.functional.conv2d(torch.rand(1, 3, 8, 8, requires_grad=True), torch.rand(3, 3, 3, 3)).sum().backward()
    before = resident()
    trainer = build_method(method, build_network(spec).train(), plan.layout, told)
    for _ in range(2):  # the second has the optimizer's state
        trainer.train_batch(frame, labels)
    risen = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    counted = count_step(trainer, frame, labels)
    large, double = (predict(spec, method, plan.layout, factor * total, told) for factor in (1, 2))
    return {
        "saved": counted.saved, "live": counted.live, "fixed": counted.fixed, "predicted_live": plan.predicted.live,
        "predicted_saved": plan.predicted.saved, "resident": risen,
        "large": {"live": large.live, "saved": large.saved}, "double": {"live": double.live, "saved": double.saved},
    }  # fmt: skip


def resident() -> int:
    """Bytes of resident memory now; the peak until now must not be higher, so it is reset where Linux allows it."""
    Path("/proc/self/clear_refs").write_text("5")
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def rows(results: list[dict[str, Any]]) -> list[list[str]]:
    """One row a configuration, ratios against BPTT of the same network and T; resident memory as run."""
    bptt = {(r["network"], r["T"]): r for r in results if r["method"] == "bptt"}
    table = []
    for r in results:
        base, small = bptt[r["network"], r["T"]], r["small"]
        cells = [f"{r['network']}, {SETTINGS[r['network']]['total']}, {r['T']}, {r['method']}"]
        for key in ("total", "per_sample", "kept_per_sample"):
            digits = 0 if key == "total" else 2
            cells += [f"{r[key] / MIB:.{digits}f}", f"{base[key] / r[key]:.2f}"]
        cells += [f"{small['predicted_live'] / small['live']:.4f}" if "predicted_live" in small else "-"]
        cells += [f"{small['resident'] / MIB:.0f}" if "resident" in small else "-"]
        table.append(cells)
    return table


if __name__ == "__main__":
    main()
