"""What spikes cost that are not the reference's own, a chip's: the same definitions, counted in the bundle's graph.

The graph is walked with the spikes as given, so what is counted is what a layer's spikes set off in the next one.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from stdl_export.graph import NodeName
from stdl_export.program import Node, Program
from stdl_runtimes.base import Array, Spikes
from stdl_runtimes.efficiency import Meter
from stdl_runtimes.ends import Arrays, Ends
from stdl_runtimes.reference_walk import Simulation


def count(
    meter: Meter, made: Program, network_ends: Ends, x: Arrays, spikes: Mapping[NodeName, Spikes], timesteps: int
) -> None:
    """Add a part of the samples to a meter. x: inputs of a run; spikes [T, B, ...] of every spiking node."""
    batch = network_ends.samples(x)
    walk = Simulation(made, batch, watch=meter.watch)
    still = walk.still(x) if network_ends.repeated else {}
    for t, frames in enumerate(network_ends.steps(x, timesteps)):
        walk.advance((still or frames) | {path: _output(made.nodes[path], each[t]) for path, each in spikes.items()})
    meter.add(batch, spikes)


def _output(node: Node, spikes: Spikes) -> Array:
    """What a node puts out for these spikes."""
    scale = np.float32(1) if node.numbers is None else node.numbers.out_scale
    output: Array = spikes.astype(np.float32) * scale
    return output
