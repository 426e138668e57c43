"""From a graph to Xylo's one recurrent layer: which neurons, which weights, and when each layer's steps are.

    graph     input -> W1 -> layer 1 -> W2 -> layer 2 -> W3 -> output layer        all in the same step
    Xylo      hidden neurons = layers 1 and 2; weights_in = W1, weights_rec holds W2, weights_out = W3

On the chip a spike of a hidden neuron arrives a step later, so layer 2 is one step behind layer 1 and the outputs are
one behind layer 2: the same spikes, `latency` steps later. A recurrent connection, which in the graph reads the step
before, must therefore join layers that are equally late. What arrives at different steps is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import nir
import numpy as np
from numpy.typing import NDArray

from stdl_export.chips.base import Refusal, Refused
from stdl_export.graph import NodeName
from stdl_export.program import Node, Program, Source
from stdl_export.semantics import Discrete

Float = NDArray[np.float64]

FEEDS = (nir.Linear, nir.Affine)
PASSED = (nir.Flatten,)
NO_SYNAPSE = (
    "use CubaLIF neurons (model.neuron.kind = 'CubaLIF'): Xylo's neurons have a synapse whose memory cannot be left out"
)
DASH_OFF = 0.2  # how far log2(tau / dt) may be from a whole number


@dataclass(frozen=True, eq=False)
class Layer:
    """One CubaLIF node. Weights are float64, [sources, neurons], gains included: what arrives at the chip's synapse.

    of_input: None where it does not read the input. of_layers: by the node that it reads; fed_back: those of them whose
    spikes of the step before it reads. dash_syn, dash_mem, bias,
    threshold: [neurons]. late: steps behind the input.
    """

    path: NodeName
    size: int
    dash_syn: NDArray[np.int64]
    dash_mem: NDArray[np.int64]
    threshold: Float
    bias: Float
    decay_error: float
    spike: str
    of_input: Float | None = None
    of_layers: dict[NodeName, Float] = field(default_factory=dict)
    fed_back: frozenset[NodeName] = frozenset()
    late: int = 0


@dataclass(frozen=True, eq=False)
class Network:
    """Hidden layers in order of execution, and the output layer."""

    inputs: int
    hidden: tuple[Layer, ...]
    output: Layer

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All of them."""
        return (*self.hidden, self.output)

    @property
    def latency(self) -> int:
        """Steps from an input to the output that belongs to it."""
        return self.output.late


def network(made: Program) -> tuple[Network | None, list[Refusal]]:
    """The layers of a program; None with every reason where Xylo cannot have them."""
    found = [*_end_reasons(made), *(reason for node in made.nodes.values() for reason in _node_reasons(node))]
    if found:
        return None, found
    layers: dict[NodeName, Layer] = {}
    for path, node in made.nodes.items():
        if node.spikes:
            try:
                layers[path] = _fed(made, node, _layer(node))
            except Refused as refused:
                found.append(refused.refusal)
    if found:
        return None, found
    return _placed(made, layers)


def _placed(made: Program, layers: dict[NodeName, Layer]) -> tuple[Network | None, list[Refusal]]:
    """The layers with the step at which each works; the one that the Output reads as the output layer."""
    output = next(source.path for source in _read(made, made.nodes[made.outputs[0]]))
    found = [*_output_reasons(layers, output)]
    late: dict[NodeName, int] = {}
    for path, layer in layers.items():
        own = {late[other] + 1 for other in layer.of_layers if other in late and other not in layer.fed_back}
        own |= {0} if layer.of_input is not None else set()
        late[path] = max(own, default=0)
        if len(own) > 1:
            what = f"inputs that arrive {' and '.join(map(str, sorted(own)))} steps late"
            limit = "layers whose inputs are equally late, since each hidden layer delays by a step"
            found.append(Refusal(path, "sources", what, limit, "leave the skip connection out"))
    for path, layer in layers.items():
        for other in layer.of_layers:
            if other in layer.fed_back and late[path] != late[other]:
                what = f"a feedback from '{other}', which is {late[other] - late[path]} steps later"
                found.append(Refusal(path, "sources", what, "feedback within one layer", "feed the layer to itself"))
    if found:
        return None, found
    placed = {path: replace(layer, late=late[path]) for path, layer in layers.items()}
    hidden = tuple(layer for path, layer in placed.items() if path != output)
    return Network(int(np.prod(made.nodes[made.inputs[0]].shape)), hidden, placed[output]), []


def _output_reasons(layers: dict[NodeName, Layer], output: NodeName) -> Iterator[Refusal]:
    for path, layer in layers.items():
        if output in layer.of_layers:
            limit, out = "outputs that nobody reads", "add a layer behind it for the output"
            yield Refusal(output, "readers", f"'{path}'", limit, out)
    if layers[output].of_input is not None:
        limit, out = "an output layer that reads hidden layers", "add a hidden layer (model.options.hidden)"
        yield Refusal(output, "sources", "the input", limit, out)


def _end_reasons(made: Program) -> Iterator[Refusal]:
    """One Input, and one Output that reads spiking neurons."""
    for what, paths in (("Inputs", made.inputs), ("Outputs", made.outputs)):
        if len(paths) != 1:
            yield Refusal(paths[0], what, f"{len(paths)} of them", "one", "export a graph of one")
    if len(made.outputs) != 1:
        return
    read = [*_read(made, made.nodes[made.outputs[0]])]
    spiking = [source for source in read if made.nodes[source.path].spikes and not source.previous]
    if len(read) != 1 or len(spiking) != 1:
        what = ", ".join(f"'{source.path}' ({type(made.nodes[source.path].node).__name__})" for source in read)
        out = "let the readout fire (model.options.readout = { kind = 'CubaLIF', ... }), and count its spikes"
        yield Refusal(made.outputs[0], "sources", what, "one layer of spiking neurons", out)


def _node_reasons(node: Node) -> Iterator[Refusal]:
    """Why Xylo cannot have a node, whatever is around it."""
    kind, of = type(node.node).__name__, node.node
    if isinstance(of, (nir.Input, nir.Output, *PASSED)):
        return
    if node.numbers is not None:
        yield from _neuron_reasons(node, node.numbers)
    elif isinstance(of, FEEDS):
        if np.ndim(of.weight) != 2 or np.prod(node.in_shape[:-1]) != 1:
            yield Refusal(node.path, "weight", f"of shape {np.shape(of.weight)}", "one matrix", "flatten its input")
        bias = getattr(of, "bias", None)
        if bias is not None and np.any(bias):
            largest = float(np.abs(bias).max())
            out = "train without (model.options.norm = false, bias = false); a clock among the inputs does as well"
            yield Refusal(node.path, "bias", f"up to {largest:.4g}", "weights without bias", out)
    else:
        out = "use linear layers" if kind.startswith(("Conv", "AvgPool", "SumPool")) else "leave it out"
        yield Refusal(node.path, "type", kind, "Linear, Affine, Flatten and CubaLIF", out)


def _neuron_reasons(node: Node, k: Discrete) -> Iterator[Refusal]:
    path = node.path
    if k.kind != "CubaLIF" or k.synapse is None:
        out = NO_SYNAPSE if k.spikes else "let it fire: Xylo puts out spikes only"
        yield Refusal(path, "type", k.kind, "CubaLIF", out)
        return
    syn = k.synapse
    orders = ("update_then_use", "jump_use_decay", "jump_decay_use")
    wanted = (
        ("reset", k.reset, k.reset == "subtract", "subtract", "train with model.neuron.reset = 'subtract'"),
        ("reset_when", k.reset_when, k.reset_when == "now", "now", "choose a dialect that resets in the same step"),
        ("spike_from", k.spike_from, k.spike_from == "new", "new", "choose a dialect that reads the new potential"),
        ("syn_order", syn.order, syn.order in orders, " or ".join(orders), "choose such a dialect"),
        ("v_min", _of(k.v_min), k.v_min is None, "none", "choose a dialect without a bound"),
        ("out_scale", _of(k.out_scale), _all(k.out_scale, 1), "1", "put the factor into the next weights"),
        ("v_init", _of(k.v_init), _all(k.v_init, 0), "0", "begin at 0"),
        ("i_init", _of(syn.i_init), _all(syn.i_init, 0), "0", "begin at 0"),
        ("syn_leak", _of(syn.leak), _all(syn.leak, 0), "0", "leave the synapse's leak out"),
        ("v_threshold", _of(k.v_threshold), bool((k.v_threshold > 0).all()), "positive ones", "raise it"),
    )
    for name, value, holds, limit, out in wanted:
        if not holds:
            yield Refusal(path, name, value, limit, out)
    for name, decay in (("tau_syn / dt", syn.decay), ("tau_mem / dt", k.decay)):
        if (reason := _decay_reason(path, name, decay)) is not None:
            yield reason


def _decay_reason(path: NodeName, name: str, decay: NDArray[np.float32]) -> Refusal | None:
    """decay = 1 - 2^-dash for a whole dash from 1 to 15."""
    rate = 1 - np.asarray(decay, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        exact = -np.log2(rate)
        off = np.abs(exact - np.clip(np.rint(exact), 1, 15))
    if np.isfinite(off).all() and off.max() <= DASH_OFF:
        return None
    worst = rate.reshape(-1)[int(np.argmax(np.where(np.isfinite(off), off, np.inf)))]
    limit = "2, 4, 8, ... 32768, since it decays by shifting bits"
    out = (
        f"train with decays of 1 - 1/2^k (beta, beta_syn = 0.5, 0.75, ...), or take another dt; nearest: {_near(worst)}"
    )
    return Refusal(path, name, f"{1 / worst:.4g}" if worst > 0 else "infinite", limit, out)


def _near(rate: float) -> int:
    """The nearest time constant in steps that the chip has."""
    return 1 << int(np.clip(np.rint(-np.log2(max(rate, 2.0**-15))), 1, 15))


def _layer(node: Node) -> Layer:
    """A neuron's own numbers; its weights come later."""
    k, size = node.numbers, int(np.prod(node.shape))
    assert k is not None
    assert k.synapse is not None

    def each(value: Any) -> Float:
        found: Float = np.broadcast_to(np.asarray(value, np.float64), node.shape).reshape(-1).copy()
        return found

    decays = {name: each(value) for name, value in (("syn", k.synapse.decay), ("mem", k.decay))}
    dashes = {name: np.clip(np.rint(-np.log2(1 - decay)), 1, 15).astype(np.int64) for name, decay in decays.items()}
    error = max(float(np.abs(1 - 2.0 ** -dashes[name] - decay).max()) for name, decay in decays.items())
    return Layer(
        node.path, size, dashes["syn"], dashes["mem"], each(k.v_threshold), each(k.leak), error, k.spike,
    )  # fmt: skip


def _fed(made: Program, node: Node, layer: Layer) -> Layer:
    """The layer with its weights: those of every matrix that it reads, times the gains that the chip does not have."""
    k = node.numbers
    assert k is not None
    assert k.synapse is not None
    gain = (k.synapse.gain * k.gain).astype(np.float64)
    factor = np.broadcast_to(gain, node.shape).reshape(-1).copy()
    if k.synapse.order != "jump_decay_use":  # the chip decays what just arrived, the graph uses it whole
        factor /= 1 - 2.0**-layer.dash_syn
    of_input: Float | None = None
    of_layers: dict[NodeName, Float] = {}
    before: dict[NodeName, bool] = {}
    for source in _read(made, node):
        feeding, weight = made.nodes[source.path], np.eye(layer.size)
        if isinstance(feeding.node, FEEDS):
            weight = np.asarray(feeding.node.weight, np.float64).T
            ends = [replace(end, previous=end.previous or source.previous) for end in _read(made, feeding)]
        else:
            ends = [source]
        for end in ends:
            of = made.nodes[end.path]
            if isinstance(of.node, FEEDS):
                raise Refused(
                    Refusal(of.path, "readers", f"'{feeding.path}'", "one matrix between neurons", "multiply the two")
                )
            if of.spikes:
                if before.setdefault(of.path, end.previous) != end.previous:
                    what = f"'{of.path}' of now and of the step before"
                    raise Refused(Refusal(node.path, "sources", what, "one of the two", "leave one out"))
                of_layers[of.path] = of_layers.get(of.path, 0) + weight * factor
            elif end.previous:
                raise Refused(Refusal(node.path, "sources", "the input of the step before", "that of now", "leave it"))
            else:
                of_input = weight * factor + (0 if of_input is None else of_input)
    fed_back = frozenset(path for path, late in before.items() if late)
    return replace(layer, of_input=of_input, of_layers=of_layers, fed_back=fed_back)


def _read(made: Program, node: Node) -> Iterator[Source]:
    """What a node reads, looked at through what only changes the shape."""
    for source in node.sources:
        of = made.nodes[source.path]
        if isinstance(of.node, PASSED):
            for further in _read(made, of):
                yield replace(further, previous=further.previous or source.previous)
        else:
            yield source


def _of(value: Any) -> str:
    if value is None:
        return "none"
    flat = np.unique(np.asarray(value))
    return f"{flat[0]:.4g}" if flat.size == 1 else f"{flat[0]:.4g} to {flat[-1]:.4g}"


def _all(value: Any, wanted: float) -> bool:
    return bool((np.asarray(value) == wanted).all())
