"""Random specifications for Xylo: small, with everything that the chip has, and often at its limits."""

from __future__ import annotations

import numpy as np

from stdl_export.chips.xylo_file import Specification


def random_specification(rng: np.random.Generator, loud: bool = False, **given) -> Specification:
    """1 to 6 neurons of each sort. loud: shifted weights and large biases, so that states saturate."""
    sizes = [int(n) for n in rng.integers(1, 7, 3)]
    inputs, hidden, outputs = sizes
    synapses, shift = int(rng.integers(1, 3)), (lambda: int(rng.integers(0, 8 if loud else 2)))
    most = 20000 if loud else 60

    def weights(*shape: int):
        kept = rng.random(shape) < 0.7
        return (rng.integers(-128, 128, shape) * kept).astype(np.int8)

    def dashes(size: int):
        return rng.integers(0, 16 if loud else 6, size).astype(np.uint8)

    biased = rng.random() < 0.7

    def bias(size: int):
        return (rng.integers(-most, most, size) * biased).astype(np.int16)

    aliases = [[int(rng.integers(hidden))] if rng.random() < 0.4 else [] for _ in range(hidden)]
    said = {
        "weights_in": weights(inputs, hidden, synapses), "weights_rec": weights(hidden, hidden, synapses),
        "weights_out": weights(hidden, outputs), "dash_mem": dashes(hidden), "dash_syn": dashes(hidden),
        "dash_syn_2": dashes(hidden), "dash_mem_out": dashes(outputs), "dash_syn_out": dashes(outputs),
        "threshold": rng.integers(1, 400, hidden).astype(np.int16),
        "threshold_out": rng.integers(1, 400, outputs).astype(np.int16), "bias": bias(hidden),
        "bias_out": bias(outputs), "weight_shift_in": shift(), "weight_shift_rec": shift(), "weight_shift_out": shift(),
        "aliases": tuple(tuple(each if each != [k] else []) for k, each in enumerate(aliases)), "dt": 1e-3,
    }  # fmt: skip
    return Specification(**(said | given))


def random_inputs(rng: np.random.Generator, network: Specification, T: int = 20, batch: int = 3):
    """Spikes [T, B, I], up to 15 a step."""
    return rng.integers(0, 16, (T, batch, network.inputs)) * (rng.random((T, batch, network.inputs)) < 0.5)
