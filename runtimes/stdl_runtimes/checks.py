"""Every condition that a row of the golden samples has to meet, with what it would have taken to pass."""

from __future__ import annotations

import math

import numpy as np

from stdl_export.manifest import Tolerances
from stdl_runtimes.compare import Flags
from stdl_runtimes.entries import Row
from stdl_runtimes.metrics import share
from stdl_runtimes.results import Check

EXCUSED = 0.05  # share of samples whose predictions ties may explain: more than that is not rounding
SAME_NETWORK = 0.5  # share of samples: a tie upsets one sample, another network upsets them all


def checks(row: Row, allowed: Tolerances, other: Flags) -> list[Check]:
    """All of one row. other [B]: samples whose prediction is not golden's."""
    found = [agreement(row, allowed, other)]
    if allowed.precision == "fp32" and not row.entry.is_another_network:
        found.append(_outputs(row))  # in any other, a potential far from its threshold may get to the other side
    found += _flips(row, allowed)
    if row.readout:
        found.append(_readout(row, allowed))
    if row.twin:
        found.append(_same_network(row, allowed))
    return found


def agreement(row: Row, allowed: Tolerances, other: Flags) -> Check:
    """Golden's predictions, except where a tie sent a sample another way; engines without spikes have no excuse."""
    excused = other & np.concatenate(row.tied)
    agree, few = share(~(other & ~excused)), bool(excused.sum() <= max(1, EXCUSED * other.size))
    text = (
        f"{other.sum()} of {other.size} predictions differ from golden's, {excused.sum()} of them from a tie on; "
        f"ties apart (at most {EXCUSED:.0%}), at least {allowed.agreement:.2%} must agree"
    )
    passed = agree >= allowed.agreement and few
    would = math.floor(agree * 1000) / 1000 if few and not passed else None
    return Check("agreement", row.entry.label, passed, text, "agreement", would)


def _outputs(row: Row) -> Check:
    text = f"{row.wrong} of {row.clear} samples without a tie have other outputs, none may"
    would = rounded_up(row.clear_off) if row.wrong else None
    return Check("outputs", row.entry.label, row.wrong == 0, text, "outputs", would)


def _flips(row: Row, allowed: Tolerances) -> list[Check]:
    found = []
    for node, layer in row.layers.items():
        if layer.judged:
            text = f"{layer.flips} of {layer.slots} spikes of '{node}' flipped, {allowed.flips:.3%} may"
            passed = layer.flips <= allowed.flips * layer.slots
            would = None if passed else rounded_up(layer.flips / layer.slots)
            found.append(Check("flips", row.entry.label, passed, text, "flips", would, node))
    return found


def _readout(row: Row, allowed: Tolerances) -> Check:
    off = np.concatenate(row.readout)
    right = share(off <= np.float32(allowed.outputs))
    text = f"{right:.2%} of outputs are right given the reference's spikes, all must be"
    would = None if right == 1 else rounded_up(float(off.max()))
    return Check("readout", row.entry.label, right == 1, text, "outputs", would)


def _same_network(row: Row, allowed: Tolerances) -> Check:
    off = np.concatenate(row.twin)
    same = share(off <= np.float32(allowed.outputs))
    text = f"{same:.2%} of outputs equal those of the {row.twin_name}, at least {SAME_NETWORK:.0%} must"
    passed = same >= SAME_NETWORK
    would = None if passed else rounded_up(float(np.quantile(off, SAME_NETWORK, method="higher")))
    return Check("same network", row.entry.label, passed, text, "outputs", would)


def rounded_up(value: float) -> float | None:
    """To two digits, so that what it stands for passes; None where no tolerance is large enough."""
    if not math.isfinite(value):
        return None
    if value <= 0:
        return 0.0
    digit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / digit - 1e-9) * digit:.2g}")
