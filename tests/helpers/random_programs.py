"""Random NIR graphs with every primitive: several inputs and outputs, loops, sub-graphs, delays, odd names, dialects.

`random_graphs` has the plain feed-forward ones that every engine takes bit for bit. Here, weights and inputs are small
multiples of powers of two as well, but integrators and loops may outgrow what float32 holds exactly.
"""

from __future__ import annotations

from typing import Any

import nir
import numpy as np
from drawn_graphs import Builder
from hypothesis import strategies as st

from stdl_export import dialects

DT = 2.0**-10
SIZE = 3  # of every vector
BATCH, STEPS = 2, 6

ODD_NAMES = ["a b", "ü.1", "..", "x'y\"z", "if", "-1", "\n", "%s{}", "0", "Affine@cycle", "ž" * 40]

CHOICES: dict[str, list[Any]] = {
    "spike": [">", ">=", "floor"],
    "spike_from": ["new", "prev"],
    "reset": ["v_reset", "zero", "subtract", "none", -0.25],
    "reset_when": ["now", "next_sub", "next_drop", "now_nodouble"],
    "v_min": ["-0.5", "-v_threshold", None],
    "v_init": ["0", "0.25", "decay"],
    "out_scale": ["2", "1"],
    "decay": ["exp(-dt/1)", "0.5"],
    "gain": ["1", "1-decay"],
    "output": ["new", "prev"],
    "syn_order": ["update_then_use", "jump_use_decay", "jump_decay_use", "use_then_update"],
    "i_init": ["0.125"],
}


@st.composite
def graphs(draw: st.DrawFn, feedback: str | None = None, loops: bool = True, dialect: bool = True) -> nir.NIRGraph:
    """A checked graph; `stdl.input` is `sequence`. feedback: how loops are delayed, drawn where None."""
    build = _Builder(draw)
    build.front()
    for index in range(draw(st.integers(2, 6))):
        build.node(index)
    if loops:
        build.loops()
    build.outputs()
    said: dict[str, Any] = {
        "graph": {"feedback": feedback or build.one_of("delay_source_output", "delay_target_input")}
    }
    if dialect:
        said["nodes"] = build.choices()
        said["graph"]["delays"] = build.one_of({}, {}, {"LIF": 1}, {"Linear": 2, "Input": 1})
    text = dialects.text(dialects.checked(said, "drawn"))
    metadata = {"stdl.dt": DT, "stdl.T": STEPS, "stdl.dialect": text}
    return nir.NIRGraph(nodes=build.nodes, edges=build.edges, metadata=metadata, type_check=False)


def inputs(graph: nir.NIRGraph, batch: int = BATCH, seed: int = 0) -> dict[str, np.ndarray]:
    """Quarters between -1 and 2 for every Input, [T, B, ...]."""
    rng = np.random.default_rng(seed)
    shapes = {
        name: node.input_type["input"] for name, node in sorted(graph.nodes.items()) if isinstance(node, nir.Input)
    }
    return {
        name: (rng.integers(-4, 9, size=(STEPS, batch, *shape)) / 4).astype(np.float32)
        for name, shape in shapes.items()
    }


def neuron(rng: np.random.Generator, kind: str, shape: tuple[int, ...]) -> nir.NIRNode:
    """A neuron of any type; its parameters have the layer's shape, or are one number, or one a channel."""
    small = [shape, (1,), (), (shape[0], *[1] * (len(shape) - 1))]
    drawn = small[rng.integers(len(small))]

    def values(*options: float) -> np.ndarray:
        return np.asarray(rng.choice(np.array(options, np.float32), size=drawn), np.float32)

    fields: dict[str, np.ndarray] = {
        "tau": values(2 * DT, 4 * DT), "tau_mem": values(2 * DT, 4 * DT), "tau_syn": values(1 * DT, 2 * DT),
        "r": values(1, 2), "v_leak": values(0, 0.125), "v_threshold": values(0.25, 0.5), "v_reset": values(0, -0.125),
        "w_in": values(1, 2),
    }  # fmt: skip
    if kind in ("IF", "I"):
        fields["r"] = fields["r"] / np.float32(2 * DT)
    made: nir.NIRNode = getattr(nir, kind)(**{name: fields[name] for name in dialects.PARAMETERS[kind]})
    return made


class _Builder(Builder):
    """Nodes that mostly put out vectors of SIZE, each reading some of those before it."""

    def __init__(self, draw: st.DrawFn) -> None:
        super().__init__(draw)
        self.vectors: list[str] = []
        self.middle: list[str] = []
        self.neurons: list[str] = []

    def add(self, name: str, node: nir.NIRNode, *sources: str) -> str:
        if name in ODD_NAMES and name in self.nodes:
            name = f"again{len(self.nodes)}"
        self.nodes[name] = node
        self.edges += [(source, name) for source in sources]
        return name

    def eighths(self, *shape: int) -> np.ndarray:
        return (self.rng.integers(-2, 5, size=shape) / 8).astype(np.float32)

    def front(self) -> None:
        """One to three Inputs: vectors, and perhaps a line or an image that is made one."""
        for index in range(self.draw(st.integers(1, 3))):
            kind = self.one_of("vector", "line", "image", "rows")
            getattr(self, f"_{kind}")(f"input{index}")

    def _vector(self, name: str) -> None:
        self.vectors.append(self.add(name, nir.Input(np.array([SIZE]))))

    def _line(self, name: str) -> None:
        padding = self.one_of(1, "same", "valid")
        conv = nir.Conv1d(None, self.eighths(2, 1, 3), 1, padding, 1, 2, self.eighths(2))
        length = 2 if padding == "valid" else 4
        x = self.add(f"{name}.conv", conv, self.add(name, nir.Input(np.array([2, 4]))))
        self._flat(name, x, 2 * length)

    def _image(self, name: str) -> None:
        conv = nir.Conv2d(None, self.eighths(2, 1, 3, 2), (1, 2), (1, 0), 1, 1, self.eighths(2))
        pool = self.one_of(nir.AvgPool2d, nir.SumPool2d)(np.array(2), np.array([2]), np.array([0, 0]))
        x = self.add(f"{name}.conv", conv, self.add(name, nir.Input(np.array([1, 4, 4]))))
        x = self.add(f"{name}.if", neuron(self.rng, "IF", (2, 4, 2)), x)
        self._flat(name, self.add(f"{name}.pool", pool, x), 2 * 2 * 1)

    def _rows(self, name: str) -> None:
        """A weight with a leading dimension."""
        affine = nir.Affine(self.eighths(2, 2, 3), self.eighths(2))
        x = self.add(f"{name}.rows", affine, self.add(name, nir.Input(np.array([2, 3]))))
        self._flat(name, x, 4)

    def _flat(self, name: str, source: str, size: int) -> None:
        flat = self.add(f"{name}.flat", nir.Flatten({"input": None}, 0, -1), source)
        self.vectors.append(self.add(f"{name}.fc", nir.Linear(self.eighths(SIZE, size)), flat))

    def node(self, index: int) -> None:
        """A node of any kind behind one or two others."""
        sources = self.draw(st.lists(st.sampled_from(self.vectors), min_size=1, max_size=2, unique=True))
        kind = self.one_of(*sorted(dialects.FIELDS), "Linear", "Affine", "Scale", "Delay", "NIRGraph", "LIF", "CubaLIF")
        name = self.one_of(f"n{index}", f"n{index}", *ODD_NAMES)
        name = self.add(name, self.made(kind), *sources)
        self.vectors.append(name)
        self.middle.append(name)
        if kind in ("IF", "LIF", "CubaLIF", "LI", "CubaLI", "I", "NIRGraph"):
            self.neurons.append(name)

    def made(self, kind: str) -> nir.NIRNode:
        if kind == "NIRGraph":
            return self.sub_graph()
        if kind == "Threshold":
            return nir.Threshold(self.eighths(SIZE))
        if kind == "Linear":
            return nir.Linear(self.eighths(SIZE, SIZE))
        if kind == "Affine":
            return nir.Affine(self.eighths(SIZE, SIZE), self.eighths(SIZE))
        if kind == "Scale":
            return nir.Scale(self.eighths(*self.one_of((SIZE,), (1,), ())))
        if kind == "Delay":
            return nir.Delay((self.rng.integers(0, 4, size=self.one_of((SIZE,), (1,))) * DT).astype(np.float32))
        return neuron(self.rng, kind, (SIZE,))

    def sub_graph(self) -> nir.NIRGraph:
        """A recurrent layer, its input sometimes wired past the neuron as well, sometimes inside another sub-graph."""
        nodes: dict[str, nir.NIRNode] = {
            "input": nir.Input(np.array([SIZE])),
            "lif": neuron(self.rng, self.one_of("LIF", "CubaLIF"), (SIZE,)),
            "rec": nir.Affine(self.eighths(SIZE, SIZE), self.eighths(SIZE)),
            "output": nir.Output(np.array([SIZE])),
        }
        edges = [("input", "lif"), ("lif", "rec"), ("rec", "lif"), ("lif", "output")]
        if self.draw(st.booleans()):
            edges.append(("input", "output"))
        inner = nir.NIRGraph(nodes, edges, {}, type_check=False)
        if self.draw(st.booleans()):
            return inner
        outer = {"input": nodes["input"], "inner": inner, "output": nodes["output"]}
        return nir.NIRGraph(outer, [("input", "inner"), ("inner", "output")], {}, type_check=False)

    def loops(self) -> None:
        """Edges back from neurons, through weights or without, not from sub-graphs: those may be mere wires."""
        safe = [name for name in self.neurons if not isinstance(self.nodes[name], nir.NIRGraph)]
        for index in range(self.draw(st.integers(0, 2)) if safe else 0):
            source = self.one_of(*safe)
            target = self.one_of(*self.middle)
            if self.draw(st.booleans()):
                source = self.add(f"rec{index}", nir.Affine(self.eighths(SIZE, SIZE), self.eighths(SIZE)), source)
            if (source, target) not in self.edges:
                self.edges.append((source, target))

    def outputs(self) -> None:
        """Whatever nobody reads is an output, and now and then another node."""
        read = {source for source, _ in self.edges}
        ends = [name for name in self.nodes if name not in read]
        if self.draw(st.booleans()) or not ends:
            ends.append(self.one_of(*self.vectors))
        for index, name in enumerate(dict.fromkeys(ends)):
            self.add(f"output{index}", nir.Output(np.array([SIZE])), name)

    def choices(self) -> dict[str, dict[str, Any]]:
        """Some choices for some nodes, only such as go together."""
        found: dict[str, dict[str, Any]] = {}
        for name, node in self.nodes.items():
            kind = type(node).__name__
            keys = [key for key in dialects.FIELDS.get(kind, ()) if key in CHOICES]
            if not keys or self.draw(st.booleans()):
                continue
            drawn = {key: self.one_of(*CHOICES[key]) for key in self.draw(st.sets(st.sampled_from(keys), max_size=4))}
            rule = dialects.Rule(**drawn).over(dialects.rule(dialects.NIR, kind, name))
            if not dialects.reasons(kind, rule):
                found[name] = drawn
        return found
