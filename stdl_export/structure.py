"""What a dialect makes of a graph: which nodes there are, what each reads, and what of that is of the step before.

Sub-graphs are written into the graph (`inline`), Flatten dims count without the batch, biases that the framework
ignores are gone, and the extra delay that a dialect puts behind a node `a` is a Delay node `a/delay` of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import nir
import numpy as np
import numpy.typing as npt

from stdl_export import cycles, dialects, semantics
from stdl_export.common.errors import BadInput
from stdl_export.cycles import Component, Uncut
from stdl_export.dialects import Dialect, Rule
from stdl_export.inline import Flat, Path

STATEFUL = ("IF", "LIF", "CubaLIF", "LI", "CubaLI", "I")
Steps = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Structure:
    """`rules` of all nodes that a dialect has a say in, `steps` of all Delay nodes (per element, collapsed).

    late: nodes whose output depends on what is stored alone. previous: edges (source, target) that read the step
    before.
    """

    nodes: Mapping[Path, Any]
    sources: Mapping[Path, tuple[Path, ...]]
    rules: Mapping[Path, Rule]
    steps: Mapping[Path, Steps]
    late: frozenset[Path]
    previous: frozenset[tuple[Path, Path]]
    components: tuple[Component, ...]

    @property
    def order(self) -> list[Path]:
        """All nodes in the order of execution."""
        return [path for component in self.components for path in component.nodes]


def structure(flat: Flat, dialect: Dialect, dt: float, resets: Mapping[Path, str | None]) -> Structure:
    """The structure of a graph whose nodes are checked. `resets`: what `stdl.reset` says of each spiking node.

    Raises `Uncut` where a cycle has nothing on it that holds the delay of a step; BadInput for a delay between steps.
    """
    cyclic = cycles.on_cycles(flat.sources)
    rules = rules_of(flat, dialect, resets, cyclic)
    flat, extra = _adapted(flat, dialect, cyclic)
    steps = {
        path: np.array(extra[path]) if path in extra else semantics.steps(node.delay, dt)
        for path, node in flat.nodes.items()
        if isinstance(node, nir.Delay)
    }
    late = frozenset(_late(flat, rules, steps))
    previous = frozenset(_cut(flat, dialects.choices(dialect).feedback, late))
    components = cycles.components(flat.sources, previous, late)
    return Structure(flat.nodes, flat.sources, rules, steps, late, previous, tuple(components))


def rules_of(
    flat: Flat, dialect: Dialect, resets: Mapping[Path, str | None], cyclic: Collection[Path]
) -> dict[Path, Rule]:
    """The complete rule of every node that a dialect has a say in."""
    return {
        path: dialects.rule(dialect, kind, path, cyclic=path in cyclic, reset=resets.get(path))
        for path, node in flat.nodes.items()
        if (kind := type(node).__name__) in dialects.FIELDS
    }


def _adapted(flat: Flat, dialect: Dialect, cyclic: Collection[Path]) -> tuple[Flat, dict[Path, int]]:
    """The nodes as the dialect reads them, with the delays that it adds; and how many steps those are."""
    chosen = dialects.choices(dialect)
    nodes = dict(flat.nodes)
    for path, node in flat.nodes.items():
        if isinstance(node, nir.Flatten) and chosen.flatten_dims == "batch":
            nodes[path] = without_batch(node)
        elif hasattr(node, "bias") and dialects.drops_bias(chosen, path, type(node).__name__, path in cyclic):
            nodes[path] = _without_bias(node)
    behind = {path: (chosen.delays or {}).get(type(node).__name__, 0) for path, node in flat.nodes.items()}
    read = {path: f"{path}/delay" if steps else path for path, steps in behind.items()}
    sources = {path: tuple(sorted(read[source] for source in names)) for path, names in flat.sources.items()}
    extra = {read[path]: steps for path, steps in behind.items() if steps and path not in flat.outputs}
    for path, delay in read.items():
        if delay in extra:
            nodes[delay] = nir.Delay(delay=np.zeros(()))  # its steps do not depend on dt
            sources[delay] = (path,)
    return replace(flat, nodes=nodes, sources=sources), extra


def without_batch(node: nir.Flatten) -> nir.Flatten:
    """A Flatten that counts the batch as dimension 0, as one that does not. BadInput where it joins the batch."""
    found = copy.copy(node)
    for field in ("start_dim", "end_dim"):
        dim = int(np.asarray(getattr(node, field)).item())
        if dim == 0:
            raise BadInput(
                f"{field}=0 joins the batch, since the dialect counts it as dimension 0 (flatten_dims 'batch')"
            )
        setattr(found, field, dim - 1 if dim > 0 else dim)
    return found


def _without_bias(node: Any) -> Any:
    if isinstance(node, nir.Affine):
        return nir.Linear(weight=node.weight, metadata=node.metadata)
    found = copy.copy(node)
    found.bias = np.zeros_like(node.bias)
    return found


def _late(flat: Flat, rules: Mapping[Path, Rule], steps: Mapping[Path, Steps]) -> Iterator[Path]:
    for path in flat.nodes:
        rule = rules.get(path, Rule())
        stored = rule.spike_from == "prev" or rule.output == "prev" or rule.syn_order == "use_then_update"
        if stored or (path in steps and steps[path].min() >= 1):
            yield path


def _cut(flat: Flat, feedback: str | None, late: Collection[Path]) -> set[tuple[Path, Path]]:
    stateful = {path for path, node in flat.nodes.items() if type(node).__name__ in STATEFUL}
    dead = cycles.dead_cycle(flat.sources, stateful | set(late))
    if dead is not None:
        raise Uncut(dead, "neither a neuron nor a delay of a step lies on it")
    if feedback == "delay_target_input":
        return cycles.delay_target_input(flat.sources, flat.inputs, flat.outputs, late)
    return cycles.delay_source_output(flat.sources, flat.inputs, stateful, late)
