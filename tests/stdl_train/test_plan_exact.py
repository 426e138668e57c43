"""The planner against all plans there are: for every budget it takes the one that its documented order prefers."""

from __future__ import annotations

import functools
import itertools
import re

import pytest
from networks import make_spec, neuron, residual_spec

from stdl_export.common.errors import BadInput
from stdl_models.nets.registry import build_network
from stdl_models.units.simple import ConvSpec, LinearSpec
from stdl_train import plan
from stdl_train.methods.base import Layout, MethodOptions, Part
from stdl_train.plan import MOST_COPIES, WIDTHS, PlanRequest
from stdl_train.plan_search import make_plan
from stdl_train.split import cut_points

OPTIONS = MethodOptions()


def linear(*features, T):
    return make_spec([LinearSpec(name=f"f{i}", features=n, neuron=neuron()) for i, n in enumerate(features)], T=T)


def conv(*units, T):
    """Units are (channels, stride)."""
    specs = [ConvSpec(name=f"c{i}", channels=n, stride=s, neuron=neuron()) for i, (n, s) in enumerate(units)]
    return make_spec(specs, T=T)


def request(batch, **more):
    return PlanRequest("stdl", batch, **more)


def later(spec, part):
    """Units behind a subnetwork; all of them have neurons here."""
    return range(part.last + 1, len(spec.units))


def order(spec, layout):
    """The smaller, the more preferred: what the planner's docstring lists, in that order."""
    parts = layout.parts[:-1]
    return (
        layout.micro_batches,
        not all(len(part.copies) >= min(2, len(later(spec, part))) for part in parts),
        -layout.width,
        len(layout.parts),
        [-(len(part.copies) >= level) for level in range(1, MOST_COPIES + 1) for part in parts],  # one each in turn
        -layout.time_chunk,
    )


def all_plans(spec, batch):
    """Every layout: numbers of subnetworks, copies, widths, micro-batches, time chunks."""
    for number in range(2, len(cut_points(build_network(spec))) + 2):
        cut = make_plan(spec, request(batch, subnetworks=number)).layout.parts
        copies = [
            [c for size in range(1, MOST_COPIES + 1) for c in itertools.combinations(later(spec, part), size)]
            for part in cut[:-1]
        ]
        pieces = [n for n in (1, 2, 4, 8) if n <= batch // 2]
        for *chosen, width, n, chunk in itertools.product(*copies, WIDTHS, pieces, range(1, spec.T + 1)):
            parts = (Part(part.first, part.last, c) for part, c in zip(cut, (*chosen, ()), strict=True))
            yield Layout(tuple(parts), width, chunk, n)


def step_bytes(spec, layout, batch):
    return plan.predict(spec, "stdl", layout, batch, OPTIONS).live


def fits(spec, layout, batch, budget):
    """The whole step is counted only where the sum over subnetworks, which is never more, leaves it open."""
    parts = [plan.predict_part(spec, "stdl", layout, i, batch, OPTIONS) for i in range(len(layout.parts))]
    below = sum(part.fixed for part in parts) + max(part.added for part in parts) + parts[0].batch
    return below <= budget and step_bytes(spec, layout, batch) <= budget


@pytest.fixture(autouse=True, scope="module")
def remembered():
    """Dry runs are the real ones; each is done once for all plans and budgets. A part's does not depend on others."""
    predict, predict_part = plan.predict, plan.predict_part
    known = {}

    def whole(spec, method, layout, batch, options):
        key = (spec.model_dump_json(), layout, batch)
        if key not in known:
            known[key] = predict(spec, method, layout, batch, options)
        return known[key]

    def alone(spec, method, layout, index, batch, options):
        rest = (layout.width, layout.time_chunk, layout.micro_batches)
        key = (spec.model_dump_json(), layout.parts[index], index == len(layout.parts) - 1, *rest, batch)
        if key not in known:
            known[key] = predict_part(spec, method, layout, index, batch, options)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "predict", whole)
        patch.setattr(plan, "predict_part", alone)
        yield


@pytest.mark.parametrize(
    ("spec", "batch", "steps"),
    [
        (linear(20, 40, 6, T=1), 4, 4),  # micro-batches
        (linear(60, 8, 6, 6, T=1), 2, 5),  # up to three auxiliary units
        (conv((6, 1), (8, 2), (12, 2), T=2), 2, 6),  # time chunks
        (conv((8, 1), (8, 1), (8, 1), (8, 1), T=1), 2, 4),  # up to four subnetworks
    ],
    ids=["linear-3", "linear-4", "conv-3", "conv-4"],
)
def test_every_budget_gets_the_preferred_plan_of_all(spec, batch, steps):
    """From no limit downwards: one plan is the best of all for a range of budgets, and is found at both ends of it.

    Below the last range nothing fits: the smallest budget that is named is its lower end.
    """
    preference = functools.partial(order, spec)
    plans = itertools.groupby(sorted(all_plans(spec, batch), key=preference), preference)
    groups = [(key, list(alike)) for key, alike in plans]
    budget, ranges = 1 << 40, 0
    while True:
        within = ((key, [x for x in alike if fits(spec, x, batch, budget)]) for key, alike in groups)
        best, alike = next((found for found in within if found[1]), (None, []))
        if best is None:
            break
        least = min(step_bytes(spec, layout, batch) for layout in alike)
        for limit in (budget, least):
            found = make_plan(spec, request(batch, budget=limit))
            assert order(spec, found.layout) == best, limit
            assert found.predicted.live == step_bytes(spec, found.layout, batch) <= limit
        budget, ranges = least - 1, ranges + 1
    assert ranges >= steps  # what is compared is not one and the same plan
    with pytest.raises(BadInput, match="the smallest that works is") as caught:
        make_plan(spec, request(batch, budget=budget))
    assert int(re.search(r"\((\d+) bytes\)", str(caught.value))[1]) == budget + 1


@pytest.mark.parametrize(
    ("spec", "batch", "better"),
    [
        pytest.param(
            residual_spec(T=2),
            4,
            Layout((Part(0, 0, (1,)), Part(1, 1, (3,)), Part(2, 2, (3,)), Part(3, 3)), width=0.5),
            id="whole batches",
        ),
        pytest.param(
            conv((12, 1), (8, 1), (6, 1), (8, 2), (6, 1), T=1),
            2,
            Layout((Part(0, 0, (4,)), Part(1, 1, (2, 4)), Part(2, 4)), width=0.5),
            id="more units",
        ),
        pytest.param(
            conv((6, 1), (12, 2), (8, 2), (8, 1), (8, 2), T=2),
            2,
            Layout((Part(0, 0, (2,)), Part(1, 4)), width=0.5, time_chunk=2),
            id="a chunk that is cheaper than single steps",
        ),
    ],
)
def test_a_plan_that_the_search_passes_by(spec, batch, better):
    """With just the bytes, the cut and the width of this plan, the one that is made should be no less preferred."""
    limits = {"budget": step_bytes(spec, better, batch), "subnetworks": len(better.parts), "width": better.width}
    assert order(spec, make_plan(spec, request(batch, **limits)).layout) <= order(spec, better)
