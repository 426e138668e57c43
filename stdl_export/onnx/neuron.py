"""A neuron layer in ONNX, one step at a time: the equations at the head of `semantics`, in their order.

Multiplications by exactly 1 and additions of exactly 0 are left out; they change no bit. What the input adds, gain*x
(with a synapse gain_i*x), does not depend on the state, and neither does the scale of a spike: `prepare` and `finish`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import onnx
from numpy.typing import NDArray

from stdl_export.graph import NodeName
from stdl_export.onnx.cell import Held, Maybe, Moment, NodeCell, Port, times
from stdl_export.onnx.emitter import Emitter
from stdl_export.program import Node
from stdl_export.semantics import Discrete, Synapse

MOST = np.array(np.finfo(np.float32).max)
LOST = 1e30  # what is smaller than this is lost when it is added to MOST
COMPARISONS = {">": "Greater", ">=": "GreaterOrEqual", "floor": "GreaterOrEqual"}  # what makes a spike


@dataclass(frozen=True, eq=False)
class NeuronCell(NodeCell):
    """A lone neuron layer. It takes gain*x and puts out its spikes {0, 1, ...}, or its potential."""

    taken = "current"

    @property
    def held(self) -> list[Held]:
        """v, i of its synapse, s (its spike of the step before)."""
        return held(self.node)

    @property
    def outputs(self) -> list[Port]:
        """Spikes carry the node's name where they are what it puts out."""
        return [Port(raw_name(self.node), self.node.shape)]

    def prepare(self, emit: Emitter, arriving: Sequence[str]) -> list[str]:
        """gain * x."""
        (x,) = arriving
        return [drive(emit, self.node, x, f"{self.name}/current")]

    def step(self, at: Moment, arriving: Sequence[Maybe], state: Sequence[Maybe]) -> tuple[list[str], list[Maybe]]:
        """Current and states to spikes (or potential) and states."""
        step = NeuronStep(at, self.node, dict(zip(_vars(self.node), state, strict=True)))
        (step.current,) = arriving
        return [step.raw], list(step.after.values()) if at.keep else []

    def finish(self, emit: Emitter, outputs: Sequence[str]) -> dict[NodeName, str]:
        """s * out_scale."""
        (raw,) = outputs
        return {self.name: scaled(emit, self.node, raw, self.name)}


def held(node: Node) -> list[Held]:
    """The states of a neuron layer."""
    return [Held(node.path, var, node.shape, value) for var, value in numbers(node).initial.items()]


def numbers(node: Node) -> Discrete:
    """The numbers of a node that is a neuron."""
    assert node.numbers is not None, "it is a neuron"
    return node.numbers


def drive(emit: Emitter, node: Node, x: str, name: str) -> str:
    """gain * x, or gain_i * x where the layer has a synapse."""
    k = numbers(node)
    if k.synapse is not None:
        return times(emit, x, k.synapse.gain, f"{node.path}/gain_i", name)
    return times(emit, x, k.gain, f"{node.path}/gain", name)


def scaled(emit: Emitter, node: Node, raw: str, name: str) -> str:
    """What the layer puts out: s * out_scale, or its potential."""
    return times(emit, raw, numbers(node).out_scale, f"{node.path}/out_scale", name)


def raw_name(node: Node) -> str:
    """What spikes are called before they are scaled."""
    return node.path if np.all(numbers(node).out_scale == 1) else f"{node.path}/spikes"


def resets_by_min(k: Discrete) -> bool:
    """Can `v_reset where s else u` be said as a minimum, to the bit?

    Where it spikes, u reaches the threshold, so u is at least v_reset if the threshold is; elsewhere the cap,
    (most - s * most) + v_reset, is the largest number there is. A neuron's step with a Where takes ONNX Runtime on
    a CPU two to three times as long as with the three or four operations of this; compilers for GPUs fuse either.
    """
    return k.spike != "floor" and bool((k.v_threshold >= k.v_reset).all() and (np.abs(k.v_reset) < LOST).all())


def _vars(node: Node) -> list[str]:
    return list(numbers(node).initial)


@dataclass(eq=False)
class NeuronStep:
    """One step of a layer. Each value is emitted when it is first asked for: what a late layer puts out is known
    before its `current` (gain*x) is.
    """

    at: Moment
    node: Node
    state: Mapping[str, Maybe]
    current: Maybe = field(default=None, init=False)

    @property
    def k(self) -> Discrete:
        """The numbers."""
        return numbers(self.node)

    @cached_property
    def raw(self) -> str:
        """Spikes {0, 1, ...}, or the potential."""
        if self.k.spikes:
            return self.spiked
        u = self.state["v"] if self.k.output == "prev" else self.charged
        return self._real(u, "u")

    @cached_property
    def after(self) -> dict[str, Maybe]:
        """The states after the step."""
        found = {"v": self._floored(self._v_after())}
        if self.k.synapse is not None:
            found["i"] = self.synapse
        if "s" in self.state:
            found["s"] = self.spiked
        return found

    @cached_property
    def synapse(self) -> Maybe:
        """i after the step."""
        k = self._synapse
        if k.order == "jump_use_decay":
            decayed = self._times(self.handed_on, "decay_i", k.decay, "/decayed_i")
            return self._shifted(decayed, k.leak, "leak_i", "/i")
        if k.order == "jump_decay_use":
            return self._times(self._jumped, "decay_i", k.decay, "/i")
        decayed = self._times(self.state["i"], "decay_i", k.decay, "/decayed_i")
        charged = self.at.plus(decayed, self.current, self._name("/charged_i"))
        return self._shifted(charged, k.leak, "leak_i", "/i")

    @cached_property
    def handed_on(self) -> Maybe:
        """c, what the synapse gives the membrane."""
        if self._synapse.order == "use_then_update":
            return self.state["i"]
        return self._jumped if self._synapse.order == "jump_use_decay" else self.synapse

    @cached_property
    def _jumped(self) -> Maybe:
        return self.at.plus(self.state["i"], self.current, self._name("/jumped_i"))

    @cached_property
    def charged(self) -> Maybe:
        """(decay * v + gain * c) + leak."""
        return self._charge(self.state["v"])

    @cached_property
    def u(self) -> str:
        """What spikes are read from: the charged potential less what an earlier spike still takes off."""
        if self.k.spike_from == "prev":
            return self._real(self.state["v"], "v")
        u = self.charged
        if self.k.reset_when == "next_sub":
            u = self.at.minus(u, self._drop(self.state["s"], "/dropped"), self._name("/u"))
        if self.k.reset_when == "next_drop" and self.state["s"] is not None:
            emit, zero = self.at.emit, self.at.emit.constant(np.zeros((), np.float32), "zero")
            silent = emit.node("Greater", [self.state["s"], zero], self._name("/dropping"))
            u = emit.node("Where", [silent, zero, self._real(u, "u")], self._name("/u"))
        if self.k.reset_when == "now_nodouble":
            u = self.at.minus(u, self._drop(self._already[1], "/dropped"), self._name("/u"))
        return self._real(u, "u")

    @cached_property
    def fired(self) -> str:
        """Where it spikes, bool."""
        return self._spikes[0]

    @cached_property
    def spiked(self) -> str:
        """s."""
        return self._spikes[1]

    @cached_property
    def _spikes(self) -> tuple[str, str]:
        return self._spikes_of(self.u, "")

    @cached_property
    def _already(self) -> tuple[str, str]:
        """Spikes as they would be read from the stored v."""
        return self._spikes_of(self._real(self.state["v"], "v"), "/already")

    def _v_after(self) -> Maybe:
        k = self.k
        if not k.spikes:
            return self.charged
        if k.spike_from == "prev" and k.reset_when == "next_sub":
            return self.at.minus(self.charged, self._drop(self.spiked, "/drop"), self._name("/v"))
        if k.spike_from == "prev":
            return self._charge(self._reset(self.u, "/reset"))
        if k.reset_when == "now_nodouble":
            more = self.at.emit.node("Sub", [self.spiked, self._already[1]], self._name("/more"))
            return self.at.minus(self.u, self._drop(more, "/drop"), self._name("/v"))
        return self._reset(self.u, "/v") if k.reset_when == "now" else self.u

    def _reset(self, u: str, what: str) -> Maybe:
        """v after spikes of the same step."""
        if self.k.reset == "subtract":
            return self.at.minus(u, self._drop(self.spiked, "/drop"), self._name(what))
        if self.k.reset == "none":
            return u
        if resets_by_min(self.k):
            return self._capped(u, what)
        v_reset = self._constant("v_reset", self.k.v_reset)
        return self.at.emit.node("Where", [self.fired, v_reset, u], self._name(what))

    def _capped(self, u: str, what: str) -> str:
        """min(u, v_reset where it spikes, else the largest number): see `resets_by_min`."""
        emit, most = self.at.emit, self.at.emit.constant(MOST, "most")
        taken = emit.node("Mul", [self.spiked, most], self._name(f"{what}/taken"))
        cap = emit.node("Sub", [most, taken], self._name(f"{what}/cap"))
        if np.any(self.k.v_reset):
            cap = emit.node("Add", [cap, self._constant("v_reset", self.k.v_reset)], self._name(f"{what}/to"))
        return emit.node("Min", [u, cap], self._name(what))

    def _floored(self, v: Maybe) -> Maybe:
        if self.k.v_min is None:
            return v
        v_min = self._constant("v_min", self.k.v_min)
        return self.at.emit.node("Max", [self._real(v, "v"), v_min], self._name("/v_floored"))

    def _charge(self, v: Maybe) -> Maybe:
        decayed = self._times(v, "decay", self.k.decay, "/decayed")
        charged = self.at.plus(decayed, self._charge_of_input, self._name("/charged"))
        return self._shifted(charged, self.k.leak, "leak", "/u")

    @cached_property
    def _charge_of_input(self) -> Maybe:
        if self.k.synapse is None:
            return self.current
        return self._times(self.handed_on, "gain", self.k.gain, "/charge")

    def _spikes_of(self, u: str, what: str) -> tuple[str, str]:
        emit, threshold = self.at.emit, self._constant("v_threshold", self.k.v_threshold)
        fired = emit.node(COMPARISONS[self.k.spike], [u, threshold], self._name(f"{what}/above"))
        if self.k.spike != "floor":
            return fired, emit.node("Cast", [fired], self._name(what), to=onnx.TensorProto.FLOAT)
        one = emit.node("Cast", [fired], self._name(f"{what}/any"), to=onnx.TensorProto.FLOAT)
        fits = u
        if not np.all(self.k.v_threshold == 1):
            fits = emit.node("Div", [u, threshold], self._name(f"{what}/fits"))
        whole = emit.node("Floor", [fits], self._name(f"{what}/whole"))
        return fired, emit.node("Mul", [one, whole], self._name(what))

    def _drop(self, s: Maybe, what: str) -> Maybe:
        """s * v_threshold."""
        return self._times(s, "v_threshold", self.k.v_threshold, what)

    @property
    def _synapse(self) -> Synapse:
        assert self.k.synapse is not None, "it was asked for"
        return self.k.synapse

    def _name(self, what: str) -> str:
        return self.at.name(self.node.path, what)

    def _real(self, x: Maybe, what: str) -> str:
        return self.at.real(x, self._name(f"/{what}"), self.node.shape)

    def _constant(self, name: str, value: NDArray[np.float32]) -> str:
        return self.at.emit.constant(value, f"{self.node.path}/{name}")

    def _times(self, x: Maybe, field: str, factor: NDArray[np.float32], what: str) -> Maybe:
        return self.at.times(x, factor, f"{self.node.path}/{field}", self._name(what))

    def _shifted(self, x: Maybe, leak: NDArray[np.float32], field: str, what: str) -> Maybe:
        """x + leak, or x where the leak is 0."""
        if not np.any(leak):
            return x
        return self.at.emit.node("Add", [self._real(x, what[1:]), self._constant(field, leak)], self._name(what))
