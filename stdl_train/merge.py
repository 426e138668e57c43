"""From trained subnetworks to one plain network, with proof.

In this order: drop the auxiliary networks and chain the subnetworks; prove on real data that outputs and every spike
equal the chained subnetworks' bit for bit; estimate batch normalisation's statistics again; write golden samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stdl_export.common.errors import CheckFailed
from stdl_export.common.files import atomic_file
from stdl_models.network import NetworkSpec, SpikingNetwork, batch_axis, batchnorms, over_time, step_chain
from stdl_models.recorder import SpikeRecorder
from stdl_models.units.base import Unit
from stdl_models.units.simple import Readout
from stdl_train.borders import pack
from stdl_train.methods.base import Method
from stdl_train.methods.stdl import Stdl
from stdl_train.split import border_values

GOLDEN_SAMPLES = 512


def merge(method: Method, x: Tensor) -> SpikingNetwork:
    """The plain network that the method trained, in eval mode.

    x: real data to prove it on, a frame [B, *shape] or a sequence [T, B, *shape]. CheckFailed where it does not equal
    the chained subnetworks: nothing is written then.
    """
    bodies = [part.body for part in method.subnetworks] if isinstance(method, Stdl) else [method.network.chain[:-1]]
    readout = method.network.readout
    merged = chain(method.network.spec, bodies, readout).to(x.device)
    prove_equal(bodies, readout, merged, x)
    return merged


def chain(spec: NetworkSpec, bodies: Sequence[Sequence[Unit]], readout: Readout) -> SpikingNetwork:
    """A new network whose units are copies of the bodies' units, in order, with the same weights and statistics."""
    merged = SpikingNetwork(spec)
    trained = [unit for body in bodies for unit in body] + [readout]
    for target, source in zip(merged.chain, trained, strict=True):
        target.load_state_dict(source.state_dict())
    return merged.eval()


def prove_equal(bodies: Sequence[Sequence[Unit]], readout: Readout, merged: SpikingNetwork, x: Tensor) -> None:
    """Compare logits of every step and every spike bit for bit; names the first neuron layer that differs.

    x: a frame [B, *shape] or a sequence [T, B, *shape].
    """
    modules = torch.nn.ModuleList([unit for body in bodies for unit in body])
    modes = [(module, module.training) for root in (modules, readout) for module in root.modules()]
    modules.eval()
    readout.eval()
    try:
        with torch.no_grad():
            with SpikeRecorder(modules) as ours:
                expected = run_chained(bodies, readout, over_time(x, merged.spec.T, merged.spec.input.shape))
            with SpikeRecorder(merged) as theirs:
                logits = merged(x)
    finally:
        for module, training in modes:
            module.training = training
    for node, steps in ours.spikes.items():
        for t, (a, b) in enumerate(zip(steps, theirs.spikes[node], strict=True), start=1):
            if not torch.equal(a, b):
                raise CheckFailed(
                    f"merged network differs from its subnetworks at '{node}', step {t}: {int((a != b).sum())} of "
                    f"{a.numel()} spikes; nothing was written, please report this"
                )
    if not torch.equal(expected, logits):
        raise CheckFailed(
            "merged network's logits differ from its subnetworks'; nothing was written, please report this"
        )


def run_chained(bodies: Sequence[Sequence[Unit]], readout: Readout, sequence: Tensor) -> Tensor:
    """Logits [T, B, classes] of subnetworks run one after the other as in training, borders kept in bits.

    sequence: [T, B, *shape].
    """
    inputs = list(sequence)
    values = iter(border_values([unit for body in bodies for unit in body]))
    for index, body in enumerate(bodies):
        states = None
        most = [next(values) for _ in body][-1]
        for t, x in enumerate(inputs):
            inputs[t], states = step_chain(list(body), x, states)
            if index + 1 < len(bodies) and most is not None:
                inputs[t] = pack(inputs[t], most).unpack()
    states, logits = None, []
    for x in inputs:
        y, states = step_chain([readout], x, states)
        logits.append(y)
    return torch.stack(logits)


def reestimate_batchnorm(network: SpikingNetwork, batches: Iterable[Tensor]) -> None:
    """Batch normalisation's running statistics anew, over all time steps.

    batches: frames [B, *shape] or sequences [T, B, *shape].

    Decoupled training normalises each time step by its own statistics and shares the running ones; potentials start
    at 0, so the first steps pull these away from what a whole sequence shows. Here the statistics of a batch are those
    of its T*B values, and the running ones their average over the batches. They can be folded, and need no retraining.
    A batch of one sample is left out. Memory is that of T*B samples without gradients: give small batches.
    """
    norms, spec = list(batchnorms(network)), network.spec
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the cumulative average: every batch counts the same
    network.train()
    with torch.no_grad():
        for x in batches:
            if x.shape[batch_axis(x, spec.input.shape)] > 1:
                network.sequence(over_time(x, spec.T, spec.input.shape))
    network.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def write_golden(network: SpikingNetwork, x: Tensor, labels: Tensor, path: Path, batch: int = 64) -> None:
    """Write golden.npz for frames [N, *shape] or sequences [T, N, *shape].

    Arrays: input, which is x; output [T, N, classes] before decoding; labels; count:<node>, spikes per neuron over T.
    """
    outputs, counts = [], dict[str, list[Tensor]]()
    network.eval()
    with torch.no_grad():
        for chunk in x.split(batch, batch_axis(x, network.spec.input.shape)):
            with SpikeRecorder(network) as recorder:
                outputs.append(network(chunk).cpu())
            for node, steps in recorder.spikes.items():
                counts.setdefault(node, []).append(torch.stack(steps).sum(0).cpu())
    arrays = {
        "input": x.cpu().numpy(),
        "output": torch.cat(outputs, dim=1).numpy(),
        "labels": labels.cpu().numpy(),
        **{f"count:{node}": _counts(torch.cat(parts)) for node, parts in counts.items()},
    }
    with atomic_file(path) as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def _counts(spikes: Tensor) -> npt.NDArray[np.integer[Any]]:
    """Whole numbers in the fewest bytes that hold them."""
    counts = spikes.numpy()
    return counts.astype(np.min_scalar_type(int(counts.max(initial=0))))
