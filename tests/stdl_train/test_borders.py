"""Border spikes in bits: nothing is lost, and they take the bytes that the planner counts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stdl_train.borders import bits_for, pack, packed_bytes


@given(most=st.integers(1, 255), shape=st.lists(st.integers(1, 7), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_round_trip(most, shape, seed):
    values = torch.randint(0, most + 1, shape, generator=torch.Generator().manual_seed(seed)).float()
    values.view(-1)[0] = most
    packed = pack(values, most)
    assert torch.equal(packed.unpack(), values)
    assert packed.planes.numel() == packed_bytes(values.numel(), most)


@pytest.mark.parametrize(("most", "bits"), [(1, 1), (2, 2), (3, 2), (4, 3), (7, 3), (8, 4)])
def test_fewest_bits(most, bits):
    assert bits_for(most) == bits


def test_a_spike_takes_one_bit():
    assert pack(torch.ones(50, 64, 32, 32), 1).planes.numel() == 50 * 64 * 32 * 32 // 8
