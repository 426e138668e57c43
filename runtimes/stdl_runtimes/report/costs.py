"""What the layers with weights cost: operations that are made, of those that a dense device makes."""

from __future__ import annotations

from collections.abc import Iterator

from stdl_runtimes.efficiency_result import Efficiency, LayerCost
from stdl_runtimes.report import markup
from stdl_runtimes.report.markup import CHARACTER, WIDTH, brief, label, rect

ROW = 38


def operations(found: Efficiency) -> Iterator[str]:
    """One picture: a bar for each node with weights. Nothing for a network without any."""
    layers = [layer for layer in found.layers if layer.weights]
    if layers:
        told = "; ".join(f"{layer.node}: {_said(layer)}" for layer in layers)
        title = f"Synaptic operations of a sample, T={found.timesteps}"
        yield markup.card("operations", title, told, 22 + ROW * len(layers), _drawn(layers))


def _said(layer: LayerCost) -> str:
    share = layer.synops / layer.dense if layer.dense else 0.0
    kind = "MACs" if layer.macs > layer.acs else "ACs"
    both = (
        f"{brief(layer.macs)} MACs, {brief(layer.acs)} ACs"
        if layer.macs and layer.acs
        else f"{brief(layer.synops)} {kind}"
    )
    return f"{both} of {brief(layer.dense)} ({share:.1%})"


def _drawn(layers: list[LayerCost]) -> Iterator[str]:
    for x, kind, name in ((0, "second", "MACs"), (70, "first", "ACs"), (140, "track", "skipped: zeros")):
        yield rect(x, 2, 10, 10, kind)
        yield label(x + 14, 12, name, "soft")
    top = max(layer.dense for layer in layers) or 1.0
    for number, layer in enumerate(layers):
        y, unit = 22 + ROW * number, WIDTH / top
        said = _said(layer)
        yield label(0, y + 12, layer.node, most=WIDTH - 8 - len(said) * CHARACTER)
        yield label(WIDTH, y + 12, said, "soft end")
        yield rect(0, y + 18, layer.dense * unit, 9, "track")
        yield rect(0, y + 18, layer.macs * unit, 9, "second")
        yield rect(layer.macs * unit, y + 18, layer.acs * unit, 9, "first")


def sums(found: Efficiency) -> list[tuple[str, str]]:
    """The whole network's numbers with their names."""
    total = found.total
    rows = [
        ("dense operations", f"{total.dense:,.0f}"),
        ("MACs", f"{total.macs:,.0f}"),
        ("ACs", f"{total.acs:,.0f}"),
        ("activation sparsity", _share(found.activation_sparsity)),
        ("connection sparsity", _share(found.connection_sparsity)),
        ("footprint, float32", f"{found.footprint:,} B"),
        ("parameters in the bundle's precision", f"{total.stored_bytes:,} B"),
        ("states of a sample", f"{total.state_bytes:,} B"),
        ("energy of synapses, estimated", f"{total.synaptic_nj:,.1f} nJ"),
        ("energy of neurons, estimated", f"{total.neuron_nj:,.1f} nJ"),
        ("were every operation a MAC", f"{total.dense_nj:,.1f} nJ"),
    ]
    return rows


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"
