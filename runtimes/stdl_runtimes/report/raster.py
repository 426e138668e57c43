"""One sample's spikes, layer by layer: neurons over time, and how many of them fire."""

from __future__ import annotations

from collections.abc import Iterator

from stdl_runtimes.picture_data import Raster, RasterLayer
from stdl_runtimes.report import markup
from stdl_runtimes.report.markup import WIDTH, label, line, rect

LEFT, HEIGHT, STRIP = 4, 150, 36  # the field of spikes, and the strip of rates below it


def layers(raster: Raster) -> Iterator[str]:
    """A picture for each spiking layer."""
    for layer in raster.layers:
        total = sum(layer.active)
        rate = total / max(layer.neurons * raster.steps, 1)
        told = f"{total:,} times a neuron fires in {raster.steps} steps of {layer.neurons:,} neurons: {rate:.1%}"
        part = "" if len(layer.shown) == layer.neurons else f"{len(layer.shown)} of {layer.neurons:,} neurons drawn. "
        yield markup.card(
            f"raster {layer.node}", layer.node, told, HEIGHT + STRIP + 34, _drawn(layer, raster.steps),
            note=f"{part}{rate:.1%} of all fire in a step.",
        )  # fmt: skip


def _drawn(layer: RasterLayer, steps: int) -> Iterator[str]:
    width, row = WIDTH - 2 * LEFT, HEIGHT / max(len(layer.shown), 1)
    step = width / max(steps, 1)
    yield rect(LEFT, 0, width, HEIGHT, "track")
    marks = [
        f"M{LEFT + step * t:.1f} {row * (number + 0.5):.1f}h{max(step * 0.86, 0.6):.2f}"
        for number, spikes in enumerate(layer.spikes)
        for t in spikes
    ]
    if marks:
        yield f'<path d="{"".join(marks)}" class="spikes" stroke-width="{row * 0.78:.2f}"/>'
    top = max(layer.active, default=0) or 1
    base = HEIGHT + 8 + STRIP
    for t, active in enumerate(layer.active):
        tall = STRIP * active / top
        yield rect(LEFT + step * t, base - tall, max(step * 0.86, 0.6), tall, "second")
    yield line(f"M{LEFT} {base}H{LEFT + width}", "axis")
    yield label(LEFT, base + 15, "step 0", "soft")
    yield label(WIDTH / 2, base + 15, f"most at once: {max(layer.active, default=0):,}", "soft middle")
    yield label(LEFT + width, base + 15, f"step {steps - 1}", "soft end")
