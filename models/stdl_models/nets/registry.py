"""The networks that a recipe can name. To add one: a builder in a file of its family, and one line here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from stdl_export.common.config import Table, validate
from stdl_export.common.errors import BadInput, one_line
from stdl_export.common.names import unknown
from stdl_models.nets.mlp import MlpOptions, mlp
from stdl_models.nets.sew_resnet import SewResnetOptions, sew_resnet18, sew_resnet34
from stdl_models.nets.vgg import Vgg5Options, Vgg11Options, vgg5, vgg11
from stdl_models.network import DEFAULT_DT, InputSpec, NetworkSpec, SpikingNetwork
from stdl_models.neurons import NeuronSpec


class Entry(NamedTuple):
    """`build(options, classes, neuron)` gives the units' specs and the readout's."""

    options: type[Table]
    build: Any


NETWORKS: dict[str, Entry] = {
    "mlp": Entry(MlpOptions, mlp),
    "vgg5": Entry(Vgg5Options, vgg5),
    "vgg11": Entry(Vgg11Options, vgg11),
    "sew_resnet18": Entry(SewResnetOptions, sew_resnet18),
    "sew_resnet34": Entry(SewResnetOptions, sew_resnet34),
}


def network_spec(
    name: str,
    input: InputSpec,
    classes: tuple[str, ...],
    T: int,
    neuron: NeuronSpec | None = None,
    options: Mapping[str, Any] | None = None,
    dt: float = DEFAULT_DT,
) -> NetworkSpec:
    """The spec of a registered network for this input; `options` are those of its family.

    BadInput if they do not fit.
    """
    if name not in NETWORKS:
        raise unknown("network", name, NETWORKS)
    entry = NETWORKS[name]
    checked = validate(entry.options, options or {}, f"options of network '{name}'")
    units, readout = entry.build(checked, len(classes), neuron or NeuronSpec())
    return NetworkSpec(name=name, input=input, classes=classes, T=T, dt=dt, units=units, readout=readout)


def build_network(spec: NetworkSpec) -> SpikingNetwork:
    """A network with freshly drawn weights; BadInput where its units do not fit its input's shape."""
    try:
        return SpikingNetwork(spec)
    except (ValueError, RuntimeError) as error:  # RuntimeError: more weights than memory
        reason = one_line(str(error))[:200]
        raise BadInput(f"network '{spec.name}' on input {spec.input.shape}: {reason}: change model.options") from None
