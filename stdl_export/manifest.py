"""What `manifest.json` of a bundle says: all that a runtime needs to know, and what parity allows."""

from __future__ import annotations

import json
from typing import Any, Literal

import pydantic

from stdl_export import graph as graphs
from stdl_export.common.errors import BadInput

SCHEMA_VERSION: Literal[2] = 2  # 1: one input and one output, with no names

Precision = Literal["fp32", "fp16", "int8"]
Membrane = Literal["fp32", "fp16"]
Origin = Literal["trained", "reference"]


class _Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TensorInfo(_Model):
    """An Input or Output by its path, and what its tensor is called in graphs and engines; shape without T and B."""

    node: str
    name: str
    shape: tuple[pydantic.PositiveInt, ...]
    dtype: Literal["float32"] = "float32"


class InputInfo(_Model):
    """What goes in, all of it alike: `repeat` is one frame [B, ...] for all steps, `sequence` is [T, B, ...].

    encoding: where there is one Input and it is known, the encoder that makes it of samples, with its options and its
    seed; "frames": recordings as they are.
    """

    mode: graphs.InputMode
    encoding: str | None = None
    encoding_options: dict[str, bool | int | float | str] = {}
    encoding_seed: pydantic.NonNegativeInt = 0
    tensors: tuple[TensorInfo, ...] = pydantic.Field(min_length=1)

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the one Input; BadInput where there are several."""
        if len(self.tensors) != 1:
            names = ", ".join(f"'{tensor.node}'" for tensor in self.tensors)
            raise BadInput(f"the network has {len(self.tensors)} Inputs, {names}: give an array for each, by name")
        return self.tensors[0].shape


class DataInfo(_Model):
    """The data set it was trained on, and its options.

    The network takes (x - mean) / std per channel, x: what comes of the encoder, pictures being in [0, 1].
    """

    name: str
    options: dict[str, Any] = {}
    mean: tuple[float, ...]
    std: tuple[pydantic.PositiveFloat, ...]


class OutputInfo(_Model):
    """What comes out, and how the T outputs of each Output become one answer.

    prediction: the Output that classifies the sample, the only one that classes and labels are about; None where there
    are several and none was named.
    """

    decoding: graphs.Decoding
    prediction: str | None
    tensors: tuple[TensorInfo, ...] = pydantic.Field(min_length=1)


class GoldenInfo(_Model):
    """Who computed the golden outputs: the trained network, or the reference from the graph."""

    origin: Origin
    samples: pydantic.PositiveInt


class Tolerances(_Model):
    """What parity allows: the share of flips further than `flip_margin` from the threshold, and the agreement.

    outputs: how far outputs may be off where all spikes are the same, relative to the largest output.
    """

    precision: Precision = "fp32"
    flip_margin: pydantic.NonNegativeFloat = 1e-5
    flips: pydantic.NonNegativeFloat = 0.0
    agreement: float = pydantic.Field(0.999, ge=0, le=1)
    outputs: pydantic.NonNegativeFloat = 1e-4  # in fp32, sums of thousands of terms differ by less

    @classmethod
    def of(cls, precision: Precision) -> Tolerances:
        """Those of a precision. Layers are judged strictly, one by one; whole networks carry each flip on."""
        return TOLERANCES[precision]


TOLERANCES: dict[Precision, Tolerances] = {
    "fp32": Tolerances(),
    "fp16": Tolerances(precision="fp16", flips=0.0002, agreement=0.98, outputs=5e-3),
    "int8": Tolerances(precision="int8", flips=0.003, agreement=0.9, outputs=3e-2),
}


class Arithmetic(_Model):
    """What the graphs compute in: nodes with weights in `precision`, but for `fp32_nodes`; v and i are stored so."""

    precision: Precision = "fp32"
    membrane: Membrane = "fp32"
    fp32_nodes: tuple[str, ...] = ()

    def said(self) -> dict[str, str]:
        """As an ONNX graph's metadata say it."""
        exceptions = {"fp32_nodes": json.dumps(self.fp32_nodes)} if self.fp32_nodes else {}
        return {"precision": self.precision, "membrane": self.membrane, **exceptions}


FP32 = Arithmetic()


class StateInfo(_Model):
    """One state of the step graph: its tensors' names, and its shape without B. It starts as `states.npz` says."""

    node: str
    var: str
    input: str
    output: str
    shape: tuple[pydantic.PositiveInt, ...]
    dtype: Literal["float32", "float16"] = "float32"


EngineMode = Literal["sequence", "step", "probe"]
"""Whole sequences, single steps, or whole sequences cut behind every spiking node."""


class EngineInfo(_Model):
    """A TensorRT engine: `batch` is its profile (min, opt, max), `graph_sha256` of the graph.nir it was made from."""

    file: str
    flavour: Literal["tensorrt", "tensorrt_rtx"]
    version: str
    mode: EngineMode
    tf32: bool
    batch: tuple[pydantic.PositiveInt, pydantic.PositiveInt, pydantic.PositiveInt]
    timesteps: pydantic.PositiveInt | None
    final_states: bool = False
    compute_capability: str | None
    graph_sha256: str

    @pydantic.field_validator("batch")
    @classmethod
    def _in_order(cls, batch: tuple[int, int, int]) -> tuple[int, int, int]:
        if not batch[0] <= batch[1] <= batch[2]:
            raise ValueError("the profile of an engine is MIN <= OPT <= MAX")
        return batch


class ChipInfo(_Model):
    """What was exported for a chip: its files lie in `folder`; `graph_sha256` of the graph.nir it was made from."""

    chip: str
    folder: str
    graph_sha256: str


class Manifest(_Model):
    """`manifest.json`. dt in seconds; timesteps is None where T is dynamic; files maps names to SHA-256."""

    schema_version: Literal[2] = SCHEMA_VERSION
    network: str
    timesteps: pydantic.PositiveInt | None
    dt: pydantic.PositiveFloat
    dialect: str
    reset: graphs.Reset | None
    input: InputInfo
    data: DataInfo | None
    classes: tuple[str, ...] | None
    output: OutputInfo
    golden: GoldenInfo
    arithmetic: Arithmetic = FP32
    tolerances: Tolerances = Tolerances()
    states: tuple[StateInfo, ...] = ()
    final_states: bool = False
    """Does model.onnx put out every state after the last step, each as its `output`?"""
    engines: tuple[EngineInfo, ...] = ()
    chips: tuple[ChipInfo, ...] = ()
    versions: dict[str, str]
    files: dict[str, str] = {}

    @property
    def settings(self) -> graphs.Settings:
        """What the graph's own metadata must say too."""
        return graphs.Settings(self.dt, self.timesteps, self.dialect, self.reset, self.input.mode, self.output.decoding)
