"""Batches, layouts and gradients for tests of training methods."""

import torch

from stdl_train.methods.base import Layout, Part
from stdl_train.split import cut_points


def batch(spec, size=6):
    """Frames that make neurons spike, and labels."""
    generator = torch.Generator().manual_seed(5)
    return (
        torch.rand(size, *spec.input.shape, generator=generator) * 3,
        torch.arange(size) % len(spec.classes),
    )


def layout_of(network, copies=1, **more):
    """Three subnetworks with the next units as copies."""
    cuts = cut_points(network)[:2]
    firsts, lasts = [0, *(c + 1 for c in cuts)], [*cuts, len(network.units) - 1]
    later = [[i for i in range(last + 1, len(network.units)) if network.units[i].layers] for last in lasts]
    parts = tuple(
        Part(first, last, tuple(rest[:copies]) if rest else ())
        for first, last, rest in zip(firsts, lasts, later, strict=True)
    )
    return Layout(parts, **more)


def gradients_of(method, frame, labels):
    """Gradients of one batch by name, and its result: the optimizers take no step."""
    kept = {}
    for index, optimizer in enumerate(method.optimizers):

        def keep(index=index):
            kept.update({f"{index}.{n}": p.grad.clone() for n, p in method.parts[index].named_parameters()})

        optimizer.step = keep
    return kept, method.train_batch(frame, labels)
