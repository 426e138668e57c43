"""A finished run on one page: curves, firing rates, the plan as a picture, memory, recipe. No external resources."""

from __future__ import annotations

import html
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tomli_w
import torch

from stdl_export.common.files import atomic_file
from stdl_models.nets.registry import build_network
from stdl_models.network import NetworkSpec
from stdl_train.memory import StepBytes, show_bytes
from stdl_train.plan import Plan
from stdl_train.recipe import Recipe

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f5539", "#444444")
WIDTH, HEIGHT, LEFT, BOTTOM = 560, 240, 72, 24
BOX, BOX_HEIGHT, STEP = 92, 34, 100

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color: #222 }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
svg { max-width: 100%; height: auto } svg text { font: 12px system-ui, sans-serif; fill: #222 }
.curves { display: flex; flex-wrap: wrap; gap: 1.5rem } figure { margin: 0 } figcaption { font-weight: 600 }
.scroll { overflow-x: auto } .plan svg { max-width: none }
td, th { padding: .2rem .8rem .2rem 0; text-align: left } pre { background: #f5f5f5; padding: 1rem; overflow-x: auto }
"""


def write_report(
    recipe: Recipe, spec: NetworkSpec, plan: Plan, history: Sequence[Mapping[str, Any]], accuracy: float,
    measured: StepBytes | None, device: torch.device, path: Path,
) -> None:  # fmt: skip
    """Write report.html; history: the lines of metrics.jsonl; accuracy: the merged network's on the test set."""
    title = f"{recipe.name}: {recipe.model.network} on {recipe.data.name}, T={spec.T}"
    body = [
        f"<h1>{_text(title)}</h1>",
        f"<p>Test accuracy of the merged network: <b>{accuracy:.2%}</b> after {len(history)} of {recipe.train.epochs} "
        "epochs.</p>",
        f'<div class="curves">{_curves(history)}</div>',
        f'<h2>Plan</h2><div class="plan scroll">{plan_picture(spec, plan)}</div>',
        "<h2>Memory</h2>" + _rows(_memory(plan, measured, history)),
        "<h2>Machine</h2>" + _rows(_machine(device)),
        f"<h2>Recipe</h2><pre>{_text(tomli_w.dumps(recipe.model_dump(mode='json', exclude_none=True)))}</pre>",
    ]
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{_text(title)}</title>'
        f"<style>{STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )
    with atomic_file(path) as part:
        part.write_text(page, encoding="utf-8")


def _curves(history: Sequence[Mapping[str, Any]]) -> str:
    if not history:
        return ""
    losses = {f"subnetwork {i + 1}": [line["loss"][i] for line in history] for i in range(len(history[0]["loss"]))}
    accuracy = {name: [line[f"{name}_accuracy"] for line in history] for name in ("train", "test")}
    firing = {name: [line["firing"].get(name, 0.0) for line in history] for name in history[0]["firing"]}
    rate = {"learning rate": [line["learning_rate"] for line in history]}
    return "".join(
        curve(title, lines)
        for title, lines in (
            ("Loss", losses),
            ("Accuracy", accuracy),
            ("Firing rate (spikes per neuron and step)", firing),
            ("Learning rate", rate),
        )
    )


def curve(title: str, lines: Mapping[str, Sequence[float]]) -> str:
    """Values over epochs, from zero up, one colour a line; the legend gives each line's last value."""
    top = max((value for values in lines.values() for value in values), default=0.0) or 1.0
    epochs = max(len(values) for values in lines.values())

    def point(index: int, value: float) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT - 10) * (index / (epochs - 1) if epochs > 1 else 0.5)
        return x, 10 + (HEIGHT - BOTTOM - 10) * (1 - value / top)

    parts = []
    for fraction in (0.0, 0.5, 1.0):
        y = point(0, top * fraction)[1]
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - 10}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{top * fraction:.3g}</text>')
    parts.append(f'<text x="{LEFT}" y="{HEIGHT - 6}">epoch 1</text>')
    parts.append(f'<text x="{WIDTH - 10}" y="{HEIGHT - 6}" text-anchor="end">{epochs}</text>')
    for number, (name, values) in enumerate(lines.items()):
        colour, places = COLOURS[number % len(COLOURS)], [point(i, value) for i, value in enumerate(values)]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2" fill="{colour}"/>' for x, y in places]
        y = HEIGHT + 14 + 16 * number
        parts.append(f'<rect x="{LEFT}" y="{y - 10}" width="12" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{LEFT + 18}" y="{y}">{_text(name)}: {values[-1]:.4g}</text>')
    height = HEIGHT + 10 + 16 * len(lines)
    return f"<figure><figcaption>{_text(title)}</figcaption>{_svg(WIDTH, height, ''.join(parts))}</figure>"


def plan_picture(spec: NetworkSpec, plan: Plan) -> str:
    """Units in a row, coloured by subnetwork; below each subnetwork, its auxiliary units."""
    units = build_network(spec).chain
    parts, deepest = list[str](), max((len(part.copies) for part in plan.layout.parts), default=0)
    for number, part in enumerate(plan.layout.parts):
        colour, last = COLOURS[number % len(COLOURS)], number == len(plan.layout.parts) - 1
        inside = list(range(part.first, part.last + 1)) + ([len(units) - 1] if last else [])
        for index in inside:
            parts.append(_box(units[index].name, 4 + index * STEP, 24, colour))
        parts.append(f'<text x="{4 + part.first * STEP}" y="16">subnetwork {number + 1}</text>')
        copies = [*(units[index].name for index in part.copies), *([] if last else ["classifier"])]
        for row, name in enumerate(copies):
            parts.append(_box(name, 4 + part.last * STEP, 76 + row * (BOX_HEIGHT + 6), colour, auxiliary=True))
    height = 76 + (deepest + 1) * (BOX_HEIGHT + 6)
    return (
        _svg(8 + len(units) * STEP, height, "".join(parts)) + "<p>Dashed: auxiliary networks, dropped in merging.</p>"
    )


def _box(name: str, x: int, y: int, colour: str, auxiliary: bool = False) -> str:
    style = f'stroke="{colour}" fill="{colour}" fill-opacity="{0.08 if auxiliary else 0.3}"'
    dashed = ' stroke-dasharray="4 3"' if auxiliary else ""
    return (
        f'<rect x="{x}" y="{y}" width="{BOX}" height="{BOX_HEIGHT}" rx="4" {style}{dashed}/>'
        f'<text x="{x + BOX // 2}" y="{y + 21}" text-anchor="middle">{_text(name)}</text>'
    )


def _memory(plan: Plan, measured: StepBytes | None, history: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    rows = [("training step, predicted", show_bytes(plan.predicted.live))]
    if measured is not None:
        share = measured.live / plan.predicted.live
        rows.append(("training step, measured", f"{show_bytes(measured.live)} ({share:.3f} of the prediction)"))
    if history:
        rows.append(("most in use by the process", show_bytes(max(line["memory"] for line in history))))
        rows.append(("training time", f"{sum(line['seconds'] for line in history):.1f} s"))
    return rows


def _machine(device: torch.device) -> list[tuple[str, str]]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return [
        ("device", f"{device.type}: {name}"),
        ("system", platform.platform()),
        ("Python", platform.python_version()),
        ("PyTorch", str(torch.__version__)),
        ("stdl-toolchain", version("stdl-toolchain")),
    ]


def _rows(rows: Sequence[tuple[str, str]]) -> str:
    cells = "".join(f"<tr><th>{_text(name)}</th><td>{_text(value)}</td></tr>" for name, value in rows)
    return f"<table>{cells}</table>"


def _svg(width: int, height: int, inside: str) -> str:
    return f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img">{inside}</svg>'


def _text(value: str) -> str:
    return html.escape(value)
