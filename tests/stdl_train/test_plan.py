"""The planner: budgets hold, the smallest that works does work, and more budget never gives less."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import network_specs, plain_spec, residual_spec

from stdl_export.common.errors import BadInput
from stdl_models.nets.registry import build_network, network_spec
from stdl_models.network import InputSpec
from stdl_train.plan import PlanRequest
from stdl_train.plan_search import make_plan
from stdl_train.split import cut_points


def request(method="stdl", budget=None, subnetworks=3, most_copies=None, **more):
    return PlanRequest(
        method, more.pop("batch", 4), subnetworks=subnetworks, budget=budget, most_copies=most_copies, **more
    )


def smallest(spec, **more):
    with pytest.raises(BadInput, match="the smallest that works is") as caught:
        make_plan(spec, request(budget=1, **more))
    return int(re.search(r"\((\d+) bytes\)", str(caught.value))[1])


@pytest.mark.parametrize("make", [plain_spec, residual_spec])
def test_the_smallest_budget_named_works_and_one_byte_less_does_not(make):
    spec = make()
    least = smallest(spec)
    plan = make_plan(spec, request(budget=least))
    assert plan.predicted.live <= least
    assert all(len(part.copies) >= 1 for part in plan.layout.parts[:-1])
    with pytest.raises(BadInput):
        make_plan(spec, request(budget=least - 1))


@given(spec=network_specs(), share=st.floats(1.0, 2.0))
@settings(max_examples=4)
def test_a_budget_is_never_exceeded(spec, share):
    cuts = cut_points(build_network(spec))
    if not cuts:
        return
    count = min(3, len(cuts) + 1)
    budget = int(smallest(spec, subnetworks=count) * share)
    assert make_plan(spec, request(budget=budget, subnetworks=count)).predicted.live <= budget


def test_more_budget_gives_more_copies_evenly():
    spec = network_spec("vgg5", InputSpec(shape=(1, 8, 8)), tuple("abcdefghij"), T=2)
    least = smallest(spec)
    counts = []
    for factor in (1.0, 1.2, 1.5, 4.0):
        plan = make_plan(spec, request(budget=int(least * factor)))
        counts.append([len(part.copies) for part in plan.layout.parts[:-1]])
    assert counts[0] == [1, 1]
    assert counts[-1] == [3, 2]  # all later units
    for fewer, more in pairwise(counts):
        assert all(a <= b for a, b in zip(fewer, more, strict=True))


def test_without_a_budget_as_many_copies_as_the_usual_cap_and_with_a_cap_no_more():
    spec = plain_spec()
    assert [len(p.copies) for p in make_plan(spec, request()).layout.parts] == [3, 2, 0]  # all later units there are
    assert [len(p.copies) for p in make_plan(spec, request(most_copies=1)).layout.parts] == [1, 1, 0]
    assert [len(p.copies) for p in make_plan(spec, request(budget=1 << 40, most_copies=1)).layout.parts] == [1, 1, 0]


def test_methods_without_parts_are_planned_whole():
    spec = plain_spec()
    for method in ("bptt", "bptt-checkpoint", "online", "online-checkpoint"):
        plan = make_plan(spec, request(method))
        assert [(part.first, part.last, part.copies) for part in plan.layout.parts] == [(0, 4, ())]
        with pytest.raises(BadInput, match=f"too small for {method}"):
            make_plan(spec, request(method, budget=plan.predicted.live - 1, micro_batches=1))
    assert [part.copies for part in make_plan(spec, request("local")).layout.parts] == [(), (), ()]


def test_too_many_subnetworks_say_how_many_can_be():
    with pytest.raises(BadInput, match="1 to 4 subnetworks, not 9"):
        make_plan(plain_spec(), request(subnetworks=9))
