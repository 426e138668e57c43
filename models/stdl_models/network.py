"""A spiking network: ordered units and a readout; its spec as JSON; its file as safetensors.

`network.safetensors` holds the tensors and, in its header, the spec as JSON with the SHA-256 of the spec and of the
tensors' bytes. Reading builds the network from the spec without allocating, compares names and shapes with the file,
and checks both hashes: a truncated or edited file is refused. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, cast

import safetensors
import safetensors.torch
import torch
from pydantic import Field
from torch import Tensor, nn

from stdl_export.common.config import Count, FiniteFloat, Name, Natural, PositiveFloat, Table, validate
from stdl_export.common.errors import BadInput, one_line
from stdl_export.common.files import atomic_file
from stdl_models.units.base import Unit
from stdl_models.units.flows import State
from stdl_models.units.registry import UnitSpec, build_unit
from stdl_models.units.shapes import Shape
from stdl_models.units.simple import Readout, ReadoutSpec

FORMAT = "stdl-network/1"
DEFAULT_DT = 1e-4
"""Seconds a time step; what other NIR frameworks assume too."""

DIRECT, FRAMES = "direct", "frames"
"""Encodings that need no encoder: the same picture in every step, and recordings as they are."""


class InputSpec(Table):
    """What one sample is in one time step: shape (C, H, W) or (N,). `data`, `data_options`: the set it comes from.

    `encoding`: how a sample becomes input over time, with the encoder's own options and its seed: "direct" shows a
    picture in every step, "frames" takes recordings as they are, others name an encoder. Network input = (x - mean) /
    std per channel, where x is what is encoded: pictures in [0, 1], spikes, or event counts.
    """

    shape: tuple[Count, ...]
    data: str | None = None
    data_options: dict[str, Any] = Field(default_factory=dict)
    mean: tuple[FiniteFloat, ...] = ()
    std: tuple[PositiveFloat, ...] = ()
    encoding: Name = DIRECT
    encoding_options: dict[str, bool | int | float | str] = Field(default_factory=dict)
    encoding_seed: Natural = 0

    @property
    def repeated(self) -> bool:
        """Whether the network takes one frame for all time steps; else a sequence."""
        return self.encoding == DIRECT


class NetworkSpec(Table):
    """Everything but the weights. T: time steps; dt: seconds a step; output: how logits are decoded over T."""

    name: Name
    input: InputSpec
    classes: tuple[str, ...]
    T: Count = 4
    dt: PositiveFloat = DEFAULT_DT
    output: Literal["mean", "sum", "last"] = "mean"
    units: tuple[UnitSpec, ...]
    readout: ReadoutSpec

    def model_post_init(self, _context: object) -> None:
        """Unit names are unique and the readout fits the classes."""
        names = [unit.name for unit in self.units] + [self.readout.name]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"unit names are used twice: {', '.join(twice)}")
        if self.readout.classes != len(self.classes):
            raise ValueError(f"the readout has {self.readout.classes} outputs for {len(self.classes)} classes")


class SpikingNetwork(nn.Module):
    """Ordered units and a readout.

    `step` is one time step with explicit state, `forward` a whole sequence from rest.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        shape: Shape = spec.input.shape
        units = []
        for unit_spec in spec.units:
            units.append(build_unit(unit_spec, shape, spec.dt))
            shape = units[-1].out_shape
        self.units = nn.ModuleList(units)
        self.readout = cast(Readout, build_unit(spec.readout, shape, spec.dt))

    @property
    def chain(self) -> list[Unit]:
        """The units and the readout, in order."""
        return [*cast("list[Unit]", list(self.units)), self.readout]

    def step(self, x: Tensor, states: list[State] | None = None) -> tuple[Tensor, list[State]]:
        """One time step: x [B, *shape] -> logits [B, classes] and the states of all units (None: from rest)."""
        return step_chain(self.chain, x, states)

    def forward(self, x: Tensor, T: int | None = None) -> Tensor:
        """Logits [T, B, classes] of T steps (None: those of the spec), step by step from rest.

        x: a frame [B, *shape], shown in every step, or a sequence [T, B, *shape].
        """
        states: list[State] | None = None
        logits = []
        for frame in over_time(x, T or self.spec.T, self.spec.input.shape):
            y, states = self.step(frame, states)
            logits.append(y)
        return torch.stack(logits)

    def sequence(self, x: Tensor) -> Tensor:
        """Logits [T, B, classes] of x [T, B, *shape], layer by layer.

        What has no state is computed for all T at once.
        """
        for unit in self.chain:
            x = unit.sequence(x)
        return x

    def save(self, path: Path) -> None:
        """Write the file described at the top of this module; atomic."""
        tensors = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        spec = self.spec.model_dump_json()
        header = {
            "format": FORMAT,
            "spec": spec,
            "spec_sha256": hashlib.sha256(spec.encode()).hexdigest(),
            "tensors_sha256": tensors_sha256(tensors),
        }
        with atomic_file(path) as part:
            safetensors.torch.save_file(tensors, part, metadata=header)

    @classmethod
    def load(cls, path: Path) -> SpikingNetwork:
        """Read such a file; BadInput in one line where it is truncated, edited or not one of ours."""
        header, tensors = _read(path)
        spec = _spec(header, path)
        if tensors_sha256(tensors) != header.get("tensors_sha256"):
            raise BadInput(
                f"'{path}': the weights do not match their SHA-256: the file was edited or damaged; train again"
            )
        try:
            with torch.device("meta"):  # shapes only: a spec from a stranger must not make us allocate
                network = cls(spec)
            _check_tensors(network, tensors, path)
            network.load_state_dict(tensors, assign=True)
        except (ValueError, RuntimeError) as error:  # RuntimeError: sizes that PyTorch cannot even describe
            raise BadInput(f"'{path}': {one_line(str(error))[:200]}") from None
        return network.eval()


def over_time(x: Tensor, T: int, shape: Shape) -> Tensor:
    """[T, B, *shape] of a frame [B, *shape] for all steps, which is a view, or of a sequence as it is.

    ValueError for a sequence of another length.
    """
    if not batch_axis(x, shape):
        return x.expand(T, *x.shape)
    if len(x) != T:
        raise ValueError(f"a sequence of {len(x)} time steps was given to a network of {T}")
    return x


def batch_axis(x: Tensor, shape: Shape) -> int:
    """Where the batch stands: 0 in a frame [B, *shape], 1 in a sequence [T, B, *shape]."""
    return x.dim() - len(shape) - 1


def step_chain(chain: list[Unit], x: Tensor, states: list[State] | None) -> tuple[Tensor, list[State]]:
    """One time step through units in order; states None: from rest.

    Used by networks, subnetworks and auxiliary networks.
    """
    after = []
    for unit, state in zip(chain, states or [unit.rest for unit in chain], strict=True):
        x, state = unit.step(x, state)
        after.append(state)
    return x, after


def chunk_chain(
    chain: list[Unit],
    x: Tensor,
    states: list[State] | None,
    run: Callable[[Unit, Tensor, State], tuple[Tensor, State]] = Unit.chunk,
) -> tuple[Tensor, list[State]]:
    """Consecutive time steps through units in order, x [c, B, ...]; states None: from rest.

    No gradient crosses steps: decoupled training. `run` runs one unit. The states are used up, see Unit.chunk.
    """
    after = []
    for unit, state in zip(chain, states or [unit.rest for unit in chain], strict=True):
        x, state = run(unit, x, state)
        after.append(state)
    return x, after


def decode(logits: Tensor, output: str) -> Tensor:
    """Logits over time [T, B, classes] -> [B, classes] by `mean`, `sum` or `last`."""
    return {"mean": lambda: logits.mean(0), "sum": lambda: logits.sum(0), "last": lambda: logits[-1]}[output]()


def tensors_sha256(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}:{value.dtype}:{tuple(value.shape)};".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def batchnorms(modules: nn.Module) -> Iterator[nn.modules.batchnorm._BatchNorm]:
    """Every batch normalisation, in order."""
    return (module for module in modules.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    if not path.is_file():
        raise BadInput(f"'{path}' does not exist: give a run folder that stdl-train wrote")
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            return dict(file.metadata() or {}), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise BadInput(f"'{path}' is not a whole safetensors file ({error}): train again or copy it again") from None


def _spec(header: dict[str, str], path: Path) -> NetworkSpec:
    if header.get("format") != FORMAT:
        raise BadInput(
            f"'{path}' is not a network of this toolchain: its header says format {header.get('format')!r:.40}"
        )
    text = header.get("spec", "")
    if hashlib.sha256(text.encode()).hexdigest() != header.get("spec_sha256"):
        raise BadInput(f"'{path}': the spec in the header does not match its SHA-256: the file was edited; train again")
    try:
        data = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise BadInput(f"'{path}': the spec in the header is not JSON: {error}") from None
    return validate(NetworkSpec, data, f"'{path}': spec in the header")


def _check_tensors(network: SpikingNetwork, tensors: dict[str, Tensor], path: Path) -> None:
    """Names must be the network's; shapes too, except for neurons' fields, which broadcast (checked when loaded)."""
    wanted = network.state_dict()
    missing, extra = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    if missing or extra:
        raise BadInput(
            f"'{path}': missing tensors {missing[:3]}, unknown tensors {extra[:3]}: not the network of its spec"
        )
    for name, value in wanted.items():
        found = tensors[name]
        is_field = ".neuron." in name or name.startswith("neuron.")
        if found.dtype != value.dtype or (not is_field and found.shape != value.shape):
            raise BadInput(
                f"'{path}': tensor '{name}' is {found.dtype} {tuple(found.shape)}, "
                f"its spec says {value.dtype} {tuple(value.shape)}"
            )
