"""The networks that a recipe can name. To add one: a builder in a file of its family, and one line here.

A name with a colon, package.module:builder, is a user's own network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from stdl_export.common.config import Table, validate
from stdl_export.common.errors import BadInput, one_line
from stdl_export.common.names import unknown
from stdl_models.nets.mlp import MlpOptions, mlp
from stdl_models.nets.resnet import (
    Resnet19Options,
    ResnetOptions,
    resnet18,
    resnet19,
    sew_resnet18,
    sew_resnet34,
    sew_resnet50,
)
from stdl_models.nets.user import is_user_network, user_network
from stdl_models.nets.vgg import Vgg5Options, Vgg9Options, Vgg11Options, vgg5, vgg9, vgg11, vgg16
from stdl_models.network import DEFAULT_DT, InputSpec, NetworkSpec, SpikingNetwork
from stdl_models.neurons import NeuronSpec


class Entry(NamedTuple):
    """`build(options, classes, neuron)` gives the units' specs and the readout's."""

    options: type[Table]
    build: Any


NETWORKS: dict[str, Entry] = {
    "mlp": Entry(MlpOptions, mlp),
    "vgg5": Entry(Vgg5Options, vgg5),
    "vgg9": Entry(Vgg9Options, vgg9),
    "vgg11": Entry(Vgg11Options, vgg11),
    "vgg16": Entry(Vgg11Options, vgg16),
    "resnet18": Entry(ResnetOptions, resnet18),
    "resnet19": Entry(Resnet19Options, resnet19),
    "sew_resnet18": Entry(ResnetOptions, sew_resnet18),
    "sew_resnet34": Entry(ResnetOptions, sew_resnet34),
    "sew_resnet50": Entry(ResnetOptions, sew_resnet50),
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
    """The spec of a registered network for this input, or of a user's own; `options` are those of its family.

    BadInput if they do not fit.
    """
    neuron = neuron or NeuronSpec()
    if is_user_network(name):
        units, readout = user_network(name, input.shape, len(classes), neuron, options or {})
        data = {"name": name.replace(":", "."), "units": units, "readout": readout}
        common = {"input": input, "classes": classes, "T": T, "dt": dt}
        return validate(NetworkSpec, data | common, f"network '{name}'")
    if name not in NETWORKS:
        raise unknown("network", name, NETWORKS)
    entry = NETWORKS[name]
    checked = validate(entry.options, options or {}, f"options of network '{name}'")
    units, readout = entry.build(checked, len(classes), neuron)
    return NetworkSpec(name=name, input=input, classes=classes, T=T, dt=dt, units=units, readout=readout)


def build_network(spec: NetworkSpec) -> SpikingNetwork:
    """A network with freshly drawn weights; BadInput where its units do not fit its input's shape."""
    try:
        return SpikingNetwork(spec)
    except (ValueError, RuntimeError) as error:  # RuntimeError: more weights than memory
        reason = one_line(str(error))[:200]
        raise BadInput(f"network '{spec.name}' on input {spec.input.shape}: {reason}: change model.options") from None
