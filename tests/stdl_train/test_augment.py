"""Augmentation: the same draw for all steps of a sample, values that stay what they are, labels that follow."""

from __future__ import annotations

import warnings

import pytest
import torch

from stdl_train.augment import AugmentTable, cutmix, make_augment, mixup
from stdl_train.methods.base import MethodOptions
from stdl_train.methods.losses import StepLoss, for_steps

LABELS = torch.arange(6) % 3
SHAPE = (2, 9, 9)


def recordings():
    """Six times one recording, whose steps are a picture times 1, 2, 3: what is done to one must be done to all."""
    picture = torch.randint(1, 9, SHAPE, generator=torch.Generator().manual_seed(1)).float().expand(6, *SHAPE)
    return torch.stack([picture, 2 * picture, 3 * picture])


def augmented(x, seed=0, timed=True, **options):
    augment = make_augment(SHAPE if x.shape[-3] == 2 else tuple(x.shape[-3:]), AugmentTable(**options), 3, timed)
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return augment(x, LABELS)


@pytest.mark.parametrize(
    "options",
    [{"flip": True}, {"shift": 2}, {"cutout": 4}, {"randaugment": 2}, {"flip": True, "shift": 1, "cutout": 3}],
    ids=str,
)
def test_all_steps_of_a_recording_share_what_is_drawn(options):
    x = recordings()
    y, labels = augmented(x, **options)
    assert y.shape == x.shape
    assert labels is LABELS
    assert not torch.equal(y, x)
    torch.testing.assert_close(y[1], 2 * y[0])
    torch.testing.assert_close(y[2], 3 * y[0])
    assert len({sample.numpy().tobytes() for sample in y[0]}) > 1  # they were the same
    assert torch.equal(y, augmented(x, **options)[0])
    assert not torch.equal(y, augmented(x, seed=3, **options)[0])


def test_a_recording_is_treated_like_the_pictures_it_is_made_of():
    x = recordings()
    pictures, _ = augmented(x[0], timed=False, shift=2, flip=True)
    torch.testing.assert_close(augmented(x, shift=2, flip=True)[0][0], pictures)
    shifted = augmented(x, shift=2)[0]
    assert torch.allclose(shifted, shifted.round(), atol=1e-4)  # counts move, they are not smeared


def test_pictures_in_colour_take_operations_on_colour():
    x = torch.rand(6, 3, 9, 9)
    seen = [augmented(x, seed, timed=False, randaugment=2)[0] for seed in range(12)]
    assert all(y.shape == x.shape and y.min() >= 0 and y.max() <= 1 for y in seen)
    assert len({float(y.sum()) for y in seen}) > 8


@pytest.mark.parametrize("mix", [mixup, cutmix])
@pytest.mark.parametrize("timed", [False, True])
def test_shares_are_those_of_the_samples_that_were_mixed(mix, timed):
    """Sample k is the number k everywhere, so its mean tells the share of every sample."""
    x = torch.arange(6.0).view(6, 1, 1, 1).expand(6, *SHAPE)
    x = x.expand(4, *x.shape) if timed else x
    torch.manual_seed(2)
    mixed, shares = mix(x, torch.eye(6), 1.0)
    assert mixed.shape == x.shape
    torch.testing.assert_close(shares.sum(1), torch.ones(6))
    assert ((shares > 0).sum(1) == 2).any()
    means = mixed.mean((-3, -2, -1))
    torch.testing.assert_close(means, (shares @ torch.arange(6.0)).expand_as(means))
    if timed:
        assert all(torch.equal(step, mixed[0]) for step in mixed)


def test_with_both_each_batch_takes_one_and_labels_become_shares():
    x = torch.arange(6.0).view(6, 1, 1, 1).expand(6, *SHAPE)
    kinds = set()
    for seed in range(12):
        y, shares = augmented(x, seed, timed=False, mixup=0.5, cutmix=0.5)
        assert shares.shape == (6, 3)
        kinds.add(bool((y == y.round()).all()))
    assert kinds == {True, False}


def test_losses_take_shares():
    shares = torch.rand(6, 3, generator=torch.Generator().manual_seed(0)).softmax(1)
    logits = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(1))
    judge = StepLoss(MethodOptions(), shares, 4)
    expected = -(logits.log_softmax(2) * shares).sum(2).mean()
    torch.testing.assert_close(judge(logits[:2]) + judge(logits[2:]), expected)
    hard = StepLoss(MethodOptions(), LABELS, 4)(logits)
    torch.testing.assert_close(StepLoss(MethodOptions(), torch.eye(3)[LABELS], 4)(logits), hard)
    assert for_steps(LABELS, 2).tolist() == [*LABELS.tolist(), *LABELS.tolist()]
