"""Do golden samples fit the graph that they are said to be of?"""

from __future__ import annotations

import nir

from stdl_export import graph
from stdl_export.golden_file import INPUT, OUTPUT, Golden
from stdl_runtimes import ends
from stdl_runtimes.ends import Ends


def misfit(golden: Golden, network: nir.NIRGraph, expected: Ends) -> str | None:
    """What of the golden samples does not fit the graph, in words; None where all of it does."""
    timesteps, batch, shapes = golden.timesteps, golden.samples, graph.shapes(network)
    front = (batch,) if expected.repeated else (timesteps, batch)
    for kind, values, known, axes in (
        (INPUT, golden.input, expected.inputs, front),
        (OUTPUT, golden.output, expected.outputs, (timesteps, batch)),
    ):
        found = ends.by_node(values, known)
        if found.keys() != known.keys():
            return f"it has {kind}s of {sorted(found) or 'one node'}, the graph of {sorted(known)}"
        for name, array in found.items():
            if array.shape != (*axes, *known[name]) or (kind == OUTPUT and expected.timesteps not in (None, timesteps)):
                return f"its {kind if len(known) == 1 else f'{kind} {name!r}'} has shape {array.shape}"
    if golden.labels is not None and golden.labels.shape != (batch,):
        return f"its labels have shape {golden.labels.shape}"
    for node in graph.neurons(network):
        if node not in golden.counts or golden.counts[node].shape != (batch, *shapes[node]):
            return f"it has no spike counts of shape {(batch, *shapes[node])} for node '{node}'"
    return None
