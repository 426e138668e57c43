"""`--for PEER`: a graph rewritten so that a peer's importer computes what ours does, or every reason why it cannot be.

1  the graph as its own dialect reads it: sub-graphs written in, Flatten without batch, numbers of every neuron
2  layers     each node that is no neuron becomes one that the peer takes (`layers`)
3  loops      a bias on a loop acts from the first step for some and from the second for others: it moves off the loop
4  neurons    each becomes one that the peer reads the same way (`form`, `neurons`); its weights bear the rest
5  names      that Python attributes can have, since importers make attributes of them
"""

from __future__ import annotations

import copy
import keyword
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nir
import numpy as np

from stdl_export import dialects
from stdl_export import graph as graphs
from stdl_export.common.errors import BadInput, join_reasons
from stdl_export.interop import layers, neurons, peers
from stdl_export.interop.draft import WEIGHTED, Draft, biased
from stdl_export.interop.form import Form, form
from stdl_export.interop.neurons import RESETS
from stdl_export.interop.peers import Peer, Reading
from stdl_export.primitives import Refused
from stdl_export.problem import limited
from stdl_export.program import Node, Program, program
from stdl_export.structure import STATEFUL

NEURONS = (*STATEFUL, "Threshold")

TAKEN = {
    "add_module", "apply", "bfloat16", "buffers", "call_super_init", "children", "clear", "compile", "cpu", "cuda",
    "double", "dump_patches", "eval", "float", "forward", "get_buffer", "get_extra_state", "get_parameter",
    "get_submodule", "half", "items", "keys", "load_state_dict", "modules", "mtia", "named_buffers", "named_children",
    "named_modules", "named_parameters", "parameters", "pop", "register_buffer", "register_module",
    "register_parameter", "requires_grad_", "set_extra_state", "set_submodule", "share_memory", "state", "state_dict",
    "to", "to_empty", "train", "training", "type", "update", "values", "xpu", "zero_grad",
}  # fmt: skip
"""What torch.nn.Module and ModuleDict call their own, and the argument `state` of NIRTorch's graphs."""


@dataclass(frozen=True)
class Adapted:
    """The graph for a peer; its metadata say what the peer's reading computes.

    remarks: what was written otherwise, and what the peer does not know. code: makes `net` from `graph`, by the peer.
    """

    title: str
    graph: nir.NIRGraph
    remarks: tuple[str, ...]
    code: tuple[str, ...]

    def reader(self, path: Path) -> list[str]:
        """Lines of Python that read the file. nir 1.0.8's own type check is wrong for grouped and uneven kernels."""
        return ["import nir", f"graph = nir.read({str(path)!r}, type_check=False)", *self.code]


def adapt(graph: nir.NIRGraph, name: str) -> Adapted:
    """A checked graph for the peer of that name; BadInput with all reasons where it cannot be said to it."""
    peer = peers.get(name)
    refusals: list[list[str]] = []
    for reading in peer.readings:
        work = _Work(graph, peer, reading)
        work.run()
        if not work.reasons:
            return work.result()
        refusals.append(work.reasons)
    raise BadInput(f"--for {name}: {join_reasons(limited(min(refusals, key=_weight)))}")


class _Work:
    """One attempt, for one way that the peer reads."""

    def __init__(self, graph: nir.NIRGraph, peer: Peer, reading: Reading) -> None:
        self.graph, self.peer, self.reading = graph, peer, reading
        self.settings = graphs.settings(graph)
        self.dt = self.settings.dt if peer.dt == "graph" else peer.dt
        self.program: Program = program(graph)
        made = graphs.structure_of(graph)
        self.previous = made.previous
        self.draft = Draft(made, graphs.shapes_of(made), peer.groups)
        self.reasons: list[str] = []
        self.remarks: dict[str, list[str]] = {}

    def run(self) -> None:
        """All steps; what stands in the way is collected in `reasons`."""
        for what, kind in ((self.program.inputs, "Inputs"), (self.program.outputs, "Outputs")):
            if len(what) != 1:
                self.reasons.append(f"the graph has {len(what)} {kind}, {self.peer.title} takes one")
        if self.reading.dialect is None and dialects.choices(self.dialect).delays:
            self.reasons.append("its dialect puts delays behind nodes, which no reader could know")
        for path, node in self.program.nodes.items():
            if type(node.node).__name__ not in NEURONS:
                self.tried(path, layers.rewrite, self.draft, path, self.peer)
        for component in self.program.components:
            if component.cyclic:
                self.tried(component.nodes[0].path, self.loop, component.nodes)
        for path in self.program.nodes:
            self.tried(path, self.draft.separate_twins, path)
        for path, node in self.program.nodes.items():
            kind = type(node.node).__name__
            if kind in NEURONS and kind not in self.peer.own:
                self.tried(path, self.neuron, path, node)

    def tried(self, path: str, step: Callable[..., None], *arguments: Any) -> None:
        """Do a step, or keep the reason against it."""
        try:
            step(*arguments)
        except Refused as refusal:
            self.reasons.append(f"node '{path}' ({type(self.program.nodes[path].node).__name__}): {refusal}")

    def loop(self, nodes: tuple[Node, ...]) -> None:
        """Of loops only neuron -> weights -> neuron, whose step of delay every importer puts between the same two.

        Where the neuron's own output is delayed, a bias acts at the first step as well, when nothing has come round.
        Importers take 0 for the weights' output then, so the bias moves to what leads to the neuron from outside.
        """
        if not self.peer.feedback:
            raise Refused(f"it lies on a loop, and {self.peer.title} reads none")
        (neuron, *more) = (node.path for node in nodes if node.stateful)
        if more or any(node.steps is not None or node.late for node in nodes):
            raise Refused("it lies on a loop with more than one neuron or delay, which importers cut where names say")
        for path in (node.path for node in nodes if node.path != neuron):
            alone = set(self.draft.sources[path]) == {neuron} and self.draft.readers(path) == [neuron]
            if not alone or not isinstance(self.draft.nodes[path], WEIGHTED):
                raise Refused("it lies on a loop other than neuron -> weights -> neuron")
            self._move_bias(neuron, path)
        while neuron in self.draft.sources[neuron]:
            self.draft.put_in(neuron, self.draft.sources[neuron].index(neuron))

    def _move_bias(self, neuron: str, path: str) -> None:
        node = self.draft.nodes[path]
        bias = getattr(node, "bias", None)
        if bias is None or not bias.any() or (neuron, path) not in self.previous:
            return
        self.draft.nodes[path] = biased(node, -bias.astype(np.float64))
        per_row = bias.astype(np.float64).reshape(-1, *[1] * (len(self.draft.shapes[path]) - 1))
        self.draft.add_bias(neuron, per_row)

    def neuron(self, path: str, node: Node) -> None:
        """One neuron as the peer reads it, and its share of its weights."""
        found = _threshold_form(node) if isinstance(node.node, nir.Threshold) else _form(node)
        made = neurons.make(found, self.peer, self.reading, self.strict, self.dt, node.shape)
        if (made.factor != 1).any():
            self.draft.scale(path, made.factor)
        if made.bias.any():
            self.draft.add_bias(path, made.bias)
        self.draft.nodes[path] = made.node
        for remark in made.remarks:
            self.remarks.setdefault(remark, []).append(path)

    @property
    def dialect(self) -> dialects.Dialect:
        """What the reading computes."""
        if self.reading.dialect is None:
            return graphs.dialect(self.graph)
        return dialects.checked(self.reading.dialect, f"peer {self.peer.title}")

    @property
    def strict(self) -> bool:
        """Does it fire above v_threshold only?"""
        return dialects.rule(self.dialect, "LIF", "").spike == ">"

    def result(self) -> Adapted:
        """The finished graph, checked."""
        names = dict(_names(self.draft.nodes))
        nodes = {names[path]: self._plain(node) for path, node in self.draft.nodes.items()}
        edges = [(names[source], names[path]) for path, sources in self.draft.sources.items() for source in sources]
        metadata = dict(self.graph.metadata)
        made = nir.NIRGraph(nodes=nodes, edges=edges, metadata=metadata, type_check=False)
        said = dialects.text(self.dialect)
        reset = self.settings.reset if self.reading.dialect is None else None
        made = graphs.with_settings(made, replace(self.settings, dt=self.dt, dialect=said, reset=reset))
        graphs.check(made, f"for {self.peer.title}")
        return Adapted(self.peer.title, made, tuple(self._said(names)), tuple(self._code()))

    def _plain(self, node: Any) -> Any:
        """Peers' dialects have resets of their own, so a node says none; where there is no such dialect, it must."""
        if self.reading.dialect is None or not node.metadata:
            return node
        found = copy.copy(node)
        found.metadata = {key: value for key, value in node.metadata.items() if key != "stdl.reset"}
        return found

    def _said(self, names: dict[str, str]) -> Iterator[str]:
        for remark, paths in self.remarks.items():
            yield f"{_listed(paths)}: {remark}"
        added = [path for path in self.draft.nodes if path not in self.program.nodes]
        if added:
            yield f"{_listed(added)}: put in or copied, to bear what the neurons behind cannot say"
        said = self.settings
        if said.input == "repeat":
            yield "the graph is to get one frame at every step (stdl.input): the peer does not know, so feed it T times"
        if said.output != "none":
            yield f"its answer is the {said.output} of its outputs over time (stdl.output): take it yourself"
        renamed = [path for path, name in names.items() if path != name]
        if renamed:
            example = f"'{renamed[0]}' is '{names[renamed[0]]}'"
            yield f"{_listed(renamed)}: renamed, {example}, since peers make attributes of names"

    def _code(self) -> Iterator[str]:
        kinds = {type(node).__name__ for node in self.draft.nodes.values()}
        own = ", ".join(f"nir.{kind}" for kind in self.peer.own if kind in kinds) or "nothing"
        for line in self.reading.code:
            yield line.replace("{dt}", repr(self.dt)).replace("{own}", own)


def _weight(reasons: list[str]) -> tuple[int, int]:
    """Of several ways to read, the one with the fewest reasons is told, of those one that resets as the graph does."""
    return len(reasons), sum(RESETS in reason for reason in reasons)


def _form(node: Node) -> Form:
    assert node.numbers is not None, "it is a neuron"
    return form(node.numbers)


def _threshold_form(node: Node) -> Form:
    """A Threshold is a LIF that forgets everything at every step: u = x."""
    one, zero = np.ones(()), np.zeros(())
    threshold = np.asarray(node.node.threshold, np.float64)
    return Form("LIF", zero, one, zero, zero, threshold, zero, "zero", node.spike == ">")


def _names(nodes: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """A name for each path, of letters, digits and '_', each once; most are their own."""
    used: set[str] = set()
    for path in sorted(nodes, key=lambda path: (not path.isidentifier(), path)):
        name = re.sub(r"[^A-Za-z0-9_]", "_", path)
        if not name[:1].isalpha() or keyword.iskeyword(name) or name in TAKEN:
            name = f"n_{name}"
        while name in used:
            name += "_"
        used.add(name)
        yield path, name


def _listed(paths: list[str]) -> str:
    shown = ", ".join(f"'{path}'" for path in paths[:4])
    return shown if len(paths) <= 4 else f"{shown} and {len(paths) - 4} more"
