"""Lava's own fixed-point process models, run by hand: the classes as their repository has them, without its runtime.

Ports become plain attributes and decorators do nothing, since Lava as a package needs Python 3.10 and starts a process
for each of its own. What computes is Lava's: `PyLifModelBitAcc`, `PyLifResetModelBitAcc`, `PyDenseModelBitAcc`,
`PyDelayDenseModelBitAcc`, `PyConvModelFixed`, and lava-dl's reader of netx files.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np

from stdl_export.chips.netx import Conv, Dense, Network, NeuronLayer, ReaderOptions

CORE = "lava.magma.core"
FAKED = (
    f"{CORE}.sync.protocols.loihi_protocol", f"{CORE}.model.py.ports", f"{CORE}.model.py.type", f"{CORE}.resources",
    f"{CORE}.decorator", f"{CORE}.model.py.model", f"{CORE}.model.py.connection", f"{CORE}.model.py.neuron",
    "lava.proc.lif.process", "lava.proc.dense.process", "lava.proc.conv.process", "lava.utils", "lava.proc.conv",
    f"{CORE}.process.process", f"{CORE}.process.ports.ports", "lava.proc.rf.process", "lava.proc.rf_iz.process",
    "lava.proc.sdn.process", "lava.lib.dl.slayer.neuron.rf", "lava.lib.dl.netx.blocks.process",
    "lava.lib.dl.netx.blocks.models",
)  # fmt: skip
REAL = {
    "lava.utils.weightutils": "lava/src/lava/utils/weightutils.py",
    "lava.proc.conv.utils": "lava/src/lava/proc/conv/utils.py",
    "lava.proc.lif.models": "lava/src/lava/proc/lif/models.py",
    "lava.proc.dense.models": "lava/src/lava/proc/dense/models.py",
    "lava.proc.conv.models": "lava/src/lava/proc/conv/models.py",
    "lava.lib.dl.netx.utils": "lava-dl/src/lava/lib/dl/netx/utils.py",
    "lava.lib.dl.netx.hdf5": "lava-dl/src/lava/lib/dl/netx/hdf5.py",
}
MOST_DELAY = 62


class _Fake(types.ModuleType):
    """Any name that is asked for is there."""

    __path__ = ()  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return MagicMock()


class _Model:
    def __init__(self, proc_params: dict[str, Any]) -> None:
        self.proc_params = proc_params


class Block:
    """What the reader makes of a layer: the arguments of its block."""

    output_message_bits = 0

    def __init__(self, **told: Any) -> None:
        self.told, self.shape = told, told["shape"]
        self.inp, self.out = MagicMock(), MagicMock()


class _Process:
    def __init__(self, **_told: Any) -> None:
        pass


class Port:
    """Holds what was sent."""

    value: Any = None

    def send(self, value: Any) -> None:
        self.value = np.array(value)

    def recv(self) -> Any:
        return self.value


def load(clones: Path) -> dict[str, Any]:
    """Lava's modules out of a folder with clones of lava and lava-dl; nothing of it stays imported."""
    before = dict(sys.modules)
    try:
        for name in FAKED:
            parts = name.split(".")
            for end in range(1, len(parts) + 1):
                sys.modules.setdefault(".".join(parts[:end]), _Fake(".".join(parts[:end])))
        decorator, model = sys.modules[f"{CORE}.decorator"], sys.modules[f"{CORE}.model.py.model"]
        for name in ("implements", "requires", "tag"):
            setattr(decorator, name, lambda *_args, **_more: lambda found: found)
        model.PyLoihiProcessModel = _Model  # type: ignore[attr-defined]
        sys.modules[f"{CORE}.model.py.type"].LavaPyType = lambda *_args, **_more: None  # type: ignore[attr-defined]
        sys.modules[f"{CORE}.process.process"].AbstractProcess = _Process  # type: ignore[attr-defined]
        for name in ("Input", "Dense", "RecurrentDense", "Conv", "ComplexDense"):
            setattr(sys.modules["lava.lib.dl.netx.blocks.process"], name, type(name, (Block,), {}))
        for part, names in (("connection", ("Float", "BitApproximate")), ("neuron", ("Float", "Fixed"))):
            for name in names:  # the learning models are built on them, and never run here
                kind = f"Learning{part.title()}Model{name}"
                setattr(sys.modules[f"{CORE}.model.py.{part}"], kind, type(kind, (_Model,), {}))
        return {name: _read(name, clones / path) for name, path in REAL.items()}
    finally:
        for name in set(sys.modules) - set(before):
            del sys.modules[name]


def _read(name: str, path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[name] = found
    spec.loader.exec_module(found)
    parent, _, child = name.rpartition(".")
    setattr(sys.modules.setdefault(parent, _Fake(parent)), child, found)
    return found


class Lava:
    """A network in Lava's models for one sample: every synapse delivers what it took in the step before."""

    def __init__(self, modules: dict[str, Any], network: Network, options: ReaderOptions) -> None:
        self._lif, self._dense = modules["lava.proc.lif.models"], modules["lava.proc.dense.models"]
        self._conv, self._reader = modules["lava.proc.conv.models"], modules["lava.lib.dl.netx.utils"]
        self.layers, self.t = network.neurons, 0
        self.synapses: list[list[Any]] = []
        for k, layer in enumerate(self.layers):
            bits = options.input_message_bits if k == 0 else 0
            self.synapses.append(
                self._matrices(layer, bits) if isinstance(layer, Dense) else [self._kernel(layer, bits)]
            )
        self.neurons = [self._neurons(layer, options, k) for k, layer in enumerate(self.layers)]
        self.spikes = [np.zeros(each.v.shape, bool) for each in self.neurons]

    def step(self, x: np.ndarray) -> None:
        """x in the order of torch."""
        self.t += 1
        for k, each in enumerate(self.neurons):
            each.time_step = self.t
            each.a_in.value = sum(self._delivered(synapse) for synapse in self.synapses[k]).astype(np.int32)
            each.run_spk()
            self.spikes[k] = np.array(each.s_out.value, bool)
        values: Any = x.transpose(2, 1, 0) if isinstance(self.layers[0], Conv) else x.reshape(-1)
        for k, layer in enumerate(self.layers):
            if isinstance(layer, Dense) and values.ndim == 3:
                values = values.transpose(2, 1, 0).reshape(-1)
            for synapse, arriving in zip(self.synapses[k], (values, self.spikes[k]), strict=False):
                synapse.s_in.value = arriving
                synapse.run_spk()
            values = self.spikes[k]

    def state(self, k: int) -> Iterator[tuple[str, np.ndarray]]:
        """u, v and spikes of a layer in the order of torch."""
        each = self.neurons[k]
        for name, value in (("u", each.u), ("v", each.v), ("spikes", self.spikes[k])):
            yield name, value.transpose(2, 1, 0) if value.ndim == 3 else value

    def _delivered(self, synapse: Any) -> np.ndarray:
        if isinstance(synapse, self._dense.PyDelayDenseModelBitAcc):
            return np.array(synapse.a_buff[:, 0])
        return np.array(synapse.a_buff if hasattr(synapse, "a_buff") else synapse.a_buf)

    def _matrices(self, layer: Dense, bits: int) -> list[Any]:
        both = layer.weight if layer.recurrent is None else np.hstack([layer.weight, layer.recurrent])
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            weight, wide, exponent, _ = self._reader.optimize_weight_bits(both.copy())
        columns = layer.weight.shape[1]
        params = {"weight_exp": exponent, "num_weight_bits": wide}
        found = [self._matrix(weight[:, :columns], layer.delay, params, bits)]
        return found if layer.recurrent is None else [*found, self._matrix(weight[:, columns:], None, params, bits)]

    def _matrix(self, weight: np.ndarray, delay: np.ndarray | None, params: dict[str, Any], bits: int) -> Any:
        if delay is None:
            made = self._dense.PyDenseModelBitAcc(params)
            made.a_buff = np.zeros(len(weight), np.int32)
        else:
            made = self._dense.PyDelayDenseModelBitAcc(params)
            made.a_buff, made.delays = np.zeros((len(weight), MOST_DELAY + 1), np.int32), delay.astype(np.int32)
        made.weights = weight.astype(np.int32)
        return _wired(made, bits)

    def _kernel(self, layer: Conv, bits: int) -> Any:
        made = self._conv.PyConvModelFixed({})
        made.weight = layer.weight[:, :, ::-1, ::-1].transpose(0, 3, 2, 1).astype(np.int32)
        for name in ("stride", "padding", "dilation"):
            setattr(made, name, np.array(getattr(layer, name)[::-1]))
        made.groups, made.kernel_size = np.array([layer.groups]), np.array(made.weight.shape[1:3])
        made.a_buf = np.zeros(layer.shape[::-1], np.int32)
        return _wired(made, bits)

    def _neurons(self, layer: NeuronLayer, options: ReaderOptions, k: int) -> Any:
        params = {"reset_interval": options.reset_interval, "reset_offset": options.reset_offset + 1 + k}
        kind = self._lif.PyLifModelBitAcc if options.reset_interval is None else self._lif.PyLifResetModelBitAcc
        made, shape = kind(params), layer.shape[::-1] if isinstance(layer, Conv) else layer.shape
        made.u, made.v = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        made.du, made.dv = int(layer.neuron.i_decay) - 1, int(layer.neuron.v_decay)
        made.vth = np.int32(layer.neuron.v_threshold)
        bias = np.zeros(shape) if layer.bias is None else layer.bias
        if isinstance(layer, Conv) and layer.bias is not None:
            bias = np.broadcast_to(bias, shape) if bias.ndim == 1 else bias.transpose(2, 1, 0)
        made.bias_mant, made.bias_exp = bias.astype(np.int32).astype(np.int16), np.int16(6)
        made.a_in, made.s_out = Port(), Port()
        return made


def _wired(synapse: Any, bits: int) -> Any:
    synapse.num_message_bits, synapse.s_in, synapse.a_out = np.array([bits]), Port(), Port()
    return synapse
