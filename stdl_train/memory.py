"""What a training step costs in memory, counted while the real step runs: on real tensors, or on `meta` as a dry run.

Two counts. `SavedBytes`: what autograd keeps for backward, at its peak; exact and the same everywhere. `LiveBytes`:
every tensor's storage that is alive, at its peak. Both count a storage once. On the `meta` device tensors have shapes
but no data, so a step of any size is counted in seconds without allocating: this is how a plan's bytes are predicted.
"""

from __future__ import annotations

import math
import re
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.flop_counter import FlopCounterMode

from stdl_export.common.errors import BadInput
from stdl_train.methods.base import Method, split_batch
from stdl_train.methods.stdl import Border, Stdl


class _Storages:
    """Bytes of storages that are alive now and were at the peak; a storage is counted once."""

    def __init__(self) -> None:
        self.now = self.peak = 0
        self._known: dict[int, tuple[weakref.ref[Any], int]] = {}

    def add(self, tensor: Tensor) -> None:
        """Count a tensor's storage until it is freed."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known and self._known[key][0]() is not None:
            return
        size = storage.nbytes()
        self._known[key] = (weakref.ref(storage, partial(self._free, key)), size)
        self.now += size
        self.peak = max(self.peak, self.now)

    def _free(self, key: int, _dead: object) -> None:
        _, size = self._known.pop(key, (None, 0))
        self.now -= size


class LiveBytes(TorchDispatchMode):
    """Within the `with` block, bytes of all tensors alive.

    `known` are those that were alive before (weights, batch).
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._storages = _Storages()
        for tensor in known:
            self._storages.add(tensor)

    @property
    def now(self) -> int:
        """Bytes alive now."""
        return self._storages.now

    @property
    def peak(self) -> int:
        """Bytes alive at the peak, `known` included."""
        return self._storages.peak

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and count its results."""
        result = func(*args, **(kwargs or {}))
        for leaf in tree_flatten(result)[0]:
            if isinstance(leaf, Tensor):
                self._storages.add(leaf)
        return result


class SavedBytes(torch.autograd.graph.saved_tensors_hooks):
    """Within the `with` block, bytes that autograd keeps for backward. `excluded`: weights, which are there anyway."""

    def __init__(self, excluded: Iterable[Tensor]) -> None:
        self._excluded = {tensor.untyped_storage()._cdata for tensor in excluded}
        self._counts: dict[int, list[int]] = {}  # storage -> [uses, bytes]
        self.now = self.peak = 0
        super().__init__(self._pack, lambda kept: kept.tensor)

    def __enter__(self) -> SavedBytes:  # type: ignore[override]
        super().__enter__()
        return self

    def _pack(self, tensor: Tensor) -> _Kept:
        storage = tensor.untyped_storage()
        if storage._cdata in self._excluded:
            return _Kept(tensor, None)
        count = self._counts.setdefault(storage._cdata, [0, storage.nbytes()])
        count[0] += 1
        if count[0] == 1:
            self.now += count[1]
            self.peak = max(self.peak, self.now)
        kept = _Kept(tensor, storage._cdata)
        weakref.finalize(kept, self._release, storage._cdata)
        return kept

    def _release(self, key: int) -> None:
        count = self._counts[key]
        count[0] -= 1
        if count[0] == 0:
            self.now -= count[1]
            del self._counts[key]


class _Kept:
    """A saved tensor; when autograd drops it, its bytes are subtracted."""

    def __init__(self, tensor: Tensor, key: int | None) -> None:
        self.tensor, self.key = tensor, key


@dataclass(frozen=True)
class StepBytes:
    """Bytes of one training step at their peaks. `live` holds `fixed`: weights, optimizer state and the batch.

    operations: multiply-accumulates of forward and backward passes; 0 where they were not counted.
    """

    saved: int
    live: int
    fixed: int
    operations: int = 0


@dataclass(frozen=True)
class PartBytes:
    """Bytes of one subnetwork's share of a step.

    fixed: its weights and optimizer state; added: what its steps add to all that is fixed, at their peak; batch: the
    whole batch and its labels, which live beside them; saved: kept for backward at the peak. operations: as above.
    """

    fixed: int
    added: int
    batch: int
    saved: int
    operations: int = 0


def count_step(method: Method, x: Tensor, labels: Tensor, operations: bool = False) -> StepBytes:
    """Run one training step and count it, optimizer state included.

    On `meta` this is the prediction, elsewhere a measurement.
    """
    known = [*_weights_and_state([method.network, *method.parts], method.optimizers), x, labels]
    with SavedBytes(known) as saved, LiveBytes(known) as live, _Operations(operations) as done:
        fixed = live.now
        method.train_batch(x, labels)
    return StepBytes(saved.peak, live.peak, fixed, done.count)


def count_part(method: Stdl, index: int, x: Tensor, labels: Tensor, operations: bool = False) -> PartBytes:
    """The same for one subnetwork of decoupled training, on `meta`: its steps, the spikes in front of it included."""
    subnetwork, layout = method.subnetworks[index], method.layout
    own = _weights_and_state([subnetwork], [method.optimizers[index]])
    pieces = split_batch(x, labels, layout.micro_batches, method.network.spec.input.shape)
    inputs: list[Tensor | Border] = [piece for piece, _ in pieces]
    if index:
        inputs = [method.border_in_front(index, len(part)) for _, part in pieces]
    spikes = [entry.planes for piece in inputs if isinstance(piece, list) for entry in piece]
    known = [*own, x, labels]
    with SavedBytes(known) as saved, LiveBytes([*known, *spikes]) as live, _Operations(operations) as done:
        there = live.now - sum(planes.untyped_storage().nbytes() for planes in spikes)
        del spikes, known
        method.train_part(index, inputs, [part for _, part in pieces])
    batch = x.untyped_storage().nbytes() + labels.untyped_storage().nbytes()
    return PartBytes(there - batch, live.peak - there, batch, saved.peak, done.count)


def _weights_and_state(modules: Sequence[nn.Module], optimizers: Sequence[torch.optim.Optimizer]) -> list[Tensor]:
    """Every tensor that is there before a step, once the optimizers have made their state."""
    for optimizer in optimizers:
        _create_state(optimizer)
    known = [tensor for module in modules for tensor in module.state_dict(keep_vars=True).values()]
    for optimizer in optimizers:
        known += [v for state in optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]
    return known


class _Operations:
    """Counts multiply-accumulates in a `with` block by PyTorch's own counter, if wanted."""

    def __init__(self, wanted: bool) -> None:
        self._counter = FlopCounterMode(display=False) if wanted else None

    def __enter__(self) -> _Operations:
        if self._counter:
            self._counter.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._counter:
            self._counter.__exit__(*error)

    @property
    def count(self) -> int:
        """Multiply-accumulates: half the floating point operations."""
        return self._counter.get_total_flops() // 2 if self._counter else 0


def _create_state(optimizer: torch.optim.Optimizer) -> None:
    """Let the optimizer make its state, which it does in its first step; that step changes no weight."""
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def parse_bytes(text: str) -> int:
    """Bytes from '4GiB', '512 MiB', '1.5GB' or '1000000'; BadInput where it is none of these."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKMGT]i?B|B)?\s*", text)
    if not match or float(match[1]) == 0:
        raise BadInput(f"memory budget '{text}': write a size such as 4GiB, 512MiB or 1.5GB")
    unit = match[2] or "B"
    power = " kMGT".index(unit[0].replace("K", "k")) if unit != "B" else 0
    return int(float(match[1]) * (1024 if "i" in unit else 1000) ** power)


def show_bytes(count: float) -> str:
    """Bytes for people: '3.20 MiB', rounded up so that a size that is shown is also enough."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{math.ceil(count * 100) / 100:.2f} {unit}" if unit != "B" else f"{int(count)} B"
        count /= 1024
    raise AssertionError
