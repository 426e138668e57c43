"""Loihi 2 as a runtime: a NumPy model of Lava's fixed-point CPU processes, not the chip.

    python -m stdl_runtimes.chips.loihi2 network.net input.npz --out out.npz

runs a netx file on one sample and writes `layer{k}_spikes`, `layer{k}_u` and `layer{k}_v` of every layer with neurons.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click
import numpy as np

from stdl_export.bundle import Bundle
from stdl_export.chips import netx_read
from stdl_export.chips.netx import ReaderOptions
from stdl_export.common.console import run
from stdl_export.common.files import atomic_file, require_writable
from stdl_runtimes.base import Device, Runtime
from stdl_runtimes.chips import loihi2_bundle
from stdl_runtimes.chips.loihi2_file import load_file as load_file
from stdl_runtimes.chips.loihi2_file import read_input, simulate


def load(bundle: Bundle, device: Device) -> Runtime:
    """The network that `stdl-export --target loihi2` put into the bundle; it always runs on the CPU."""
    return loihi2_bundle.load(bundle)


@click.command(name="python -m stdl_runtimes.chips.loihi2")
@click.argument("network", type=click.Path(path_type=Path))
@click.argument("inputs", metavar="INPUT.npz", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The .npz file to write.")
@click.option(
    "--steps", type=click.IntRange(1, 1 << 20), help="Of the chip. [default: those of the input, layers, and 2]"
)
@click.option("--input-message-bits", type=click.IntRange(0, 32), default=0, help="Above 0: inputs are whole numbers.")
@click.option("--reset-interval", type=click.IntRange(min=1), help="Clear u and v every so many steps.")
@click.option("--reset-offset", type=int, default=0, help="By how many steps that is later.")
def command(
    network: Path,
    inputs: Path,
    out: Path,
    steps: int | None,
    input_message_bits: int,
    reset_interval: int | None,
    reset_offset: int,
) -> None:
    """Run the netx file NETWORK as Lava's CPU model does, on the `spikes` (features, T) or (C, H, W, T) of INPUT.npz.

    Writes layer{k}_spikes (uint8), layer{k}_u and layer{k}_v (int32), time last, of every layer with neurons.
    """
    require_writable(out)
    options = ReaderOptions(input_message_bits, reset_interval, reset_offset)
    arrays = simulate(netx_read.read(network), read_input(inputs), steps, options)
    with atomic_file(out) as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # its stub takes the names for its own options


if __name__ == "__main__":
    sys.exit(run(command))
