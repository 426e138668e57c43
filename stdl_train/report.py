"""What people see of a run: the plan as a table."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from stdl_models.nets.registry import build_network
from stdl_models.network import NetworkSpec
from stdl_train.memory import StepBytes, show_bytes
from stdl_train.methods.registry import METHODS, build_subnetworks
from stdl_train.plan import Plan, describe_copies


def plan_table(spec: NetworkSpec, plan: Plan, bptt: StepBytes) -> RenderableType:
    """Units, auxiliary units and weights of each subnetwork; predicted bytes of a step beside BPTT's."""
    network = build_network(spec)
    request = plan.request
    table = Table(
        title=f"{spec.name}, T={spec.T}, batch {request.batch}, {request.method}: {METHODS[request.method].line}"
    )
    for column in ("subnetwork", "units", "auxiliary units"):
        table.add_column(column, overflow="fold")
    table.add_column("weights", justify="right")
    table.add_column("auxiliary weights", justify="right")
    subnetworks = build_subnetworks(network, plan.parts)
    for index, (part, subnetwork) in enumerate(zip(plan.parts, subnetworks, strict=True), start=1):
        last = index == len(plan.parts)
        weights = [
            sum(p.numel() for unit in units for p in unit.parameters()) for units in (subnetwork.body, subnetwork.head)
        ]
        units = [unit.name for unit in subnetwork.body] + ([subnetwork.head[-1].name] if last else [])
        copies = [] if last else [*describe_copies(network, part), "classifier"]
        table.add_row(
            str(index),
            " ".join(units),
            ", ".join(copies) or "-",
            f"{weights[0] + last * weights[1]:,}",
            "-" if last else f"{weights[1]:,}",
        )
    predicted, budget = plan.predicted, request.budget
    lines = [
        f"predicted bytes of a training step: {show_bytes(predicted.live)} ({predicted.live} bytes: weights, "
        "optimizer state, gradients, activations, spikes between subnetworks)",
        f"  of these kept for backward at the peak: {show_bytes(predicted.saved)}; "
        f"always there: {show_bytes(predicted.fixed)}",
        f"BPTT on the same network and batch: {show_bytes(bptt.live)} ({bptt.live / predicted.live:.2f} times), "
        f"kept for backward {show_bytes(bptt.saved)} ({bptt.saved / predicted.saved:.2f} times)",
        f"memory budget: {'none' if budget is None else show_bytes(budget)}",
    ]
    return Group(table, *(Text(line) for line in lines))
