"""What people see of a plan: subnetworks and their bytes as a table, BPTT and checkpointed BPTT beside them."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from stdl_models.nets.registry import build_network
from stdl_models.network import NetworkSpec
from stdl_train.memory import StepBytes, show_bytes
from stdl_train.methods.registry import METHODS, build_subnetworks
from stdl_train.plan import Costs, Plan, describe_copies


def plan_table(spec: NetworkSpec, plan: Plan, costs: Costs) -> RenderableType:
    """Units, auxiliary units, weights, bytes and operations of each subnetwork; the whole step beside its rivals."""
    request, budget = plan.request, plan.request.budget
    lines = [
        f"predicted bytes of a training step: {show_bytes(costs.step.live)} ({costs.step.live} bytes: weights, "
        "optimizer state, gradients, activations, spikes between subnetworks)",
        f"memory budget: {'none' if budget is None else show_bytes(budget)}",
    ]
    if request.options.compile:
        lines.append("predicted for the uncompiled step: torch.compile decides anew what it keeps")
    return Group(_subnetworks(spec, plan, costs), _whole(plan, costs), *(Text(line) for line in lines))


def _subnetworks(spec: NetworkSpec, plan: Plan, costs: Costs) -> Table:
    request, layout = plan.request, plan.layout
    network = build_network(spec)
    details = f"time chunk {layout.time_chunk}, {layout.micro_batches} micro-batch(es)"
    if layout.width != 1:
        details += f", auxiliary units at {layout.width:g} of their width"
    table = Table(
        title=f"{spec.name}, T={spec.T}, batch {request.batch}, {request.method}: {METHODS[request.method].line}; "
        + details
    )
    for column in ("subnetwork", "units", "auxiliary units"):
        table.add_column(column, overflow="fold")
    numbers = ("weights", "auxiliary weights", "bytes in its turn", "kept for backward", "GMAC a batch")
    for column in numbers:
        table.add_column(column, justify="right")
    subnetworks = build_subnetworks(network, layout)
    for index, (part, subnetwork) in enumerate(zip(layout.parts, subnetworks, strict=True)):
        last = index == len(layout.parts) - 1
        body, head = (
            sum(p.numel() for unit in units for p in unit.parameters()) for units in (subnetwork.body, subnetwork.head)
        )
        units = [unit.name for unit in subnetwork.body] + ([subnetwork.head[-1].name] if last else [])
        copies = [] if last else [*describe_copies(network, part, layout.width), "classifier"]
        cells = [str(index + 1), " ".join(units), ", ".join(copies) or "-"]
        cells += [f"{body + last * head:,}", "-" if last else f"{head:,}"]
        if costs.parts:
            cost = costs.parts[index]
            cells += [show_bytes(cost.fixed + cost.added), show_bytes(cost.saved), f"{cost.operations / 1e9:.2f}"]
        table.add_row(*cells)
    return table


def _whole(plan: Plan, costs: Costs) -> Table:
    """One row for the plan and one for each rival; ratios are rival / plan."""
    table = Table(title="the whole step")
    table.add_column("method")
    for column in ("bytes", "x plan", "kept for backward", "x plan", "always there", "GMAC a batch", "x plan"):
        table.add_column(column, justify="right")
    ours = costs.step

    def row(name: str, step: StepBytes) -> None:
        table.add_row(
            name,
            show_bytes(step.live),
            f"{step.live / ours.live:.2f}",
            show_bytes(step.saved),
            f"{step.saved / ours.saved:.2f}",
            show_bytes(step.fixed),
            f"{step.operations / 1e9:.2f}",
            f"{step.operations / ours.operations:.2f}",
        )

    row(f"{plan.request.method} (this plan)", ours)
    for name, step in costs.rivals.items():
        if name != plan.request.method:
            row(name, step)
    return table
