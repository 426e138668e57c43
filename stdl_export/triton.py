"""A model repository for the Triton Inference Server, made of a bundle's ONNX graphs.

`triton/` of a bundle is what `tritonserver --model-repository` takes. The sequence graph becomes a model with dynamic
batching: requests of several clients run as one batch. The step graph becomes a model with sequence batching: a client
sends one frame after another, and the server keeps the states between them (Triton calls that implicit state).

What a config.pbtxt may hold is Triton's `model_config.proto`; the fields are explained in its model_configuration.md,
batcher.md and implicit_state_management.md.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stdl_export.arrays import read_arrays
from stdl_export.common.errors import BadInput
from stdl_export.common.files import atomic_file
from stdl_export.manifest import Manifest, StateInfo
from stdl_export.onnx.serving import BATCH, End, Ends, write_batch_first

FOLDER = "triton"
QUEUE_DELAY_US = 100  # how long a request waits for others to share a batch with
IDLE_US = 60_000_000  # after so long without a frame a sequence is given up, and its states with it
CANDIDATES = 4  # batches of sequences that one instance keeps the states of at a time

# Our elements' types as Triton calls them, and as NumPy writes them into a file (little-endian).
TYPES = {"FLOAT": "TYPE_FP32", "FLOAT16": "TYPE_FP16", "INT64": "TYPE_INT64"}
STORED = {"float32": "<f4", "float16": "<f2"}


@dataclass(frozen=True)
class Word:
    """A name of Triton's own in a config: it stands without quotes."""

    text: str


Message = dict[str, Any]
"""A protobuf message: fields to values; a list is a field that is repeated."""


def write_sequence(source: Path, folder: Path, manifest: Manifest, batch: int) -> str:
    """The model of whole sequences, and its name.

    Where one frame is repeated for a T that each request says, requests cannot share a batch: then each is one.
    """
    name = model_name(manifest)
    ends = _copied(source, folder / name, manifest, ())
    together = all(end.dims[:1] == (BATCH,) for end in (*ends.inputs, *ends.outputs))
    config = _common(name, manifest, ends, batch if together else 0)
    config["input"] = [_tensor(end, together) for end in ends.inputs]
    config["output"] = [_tensor(end, together) for end in ends.outputs]
    if together:
        config["dynamic_batching"] = {"max_queue_delay_microseconds": QUEUE_DELAY_US}
    _write(folder / name / "config.pbtxt", config)
    return name


def write_step(source: Path, states: Path, folder: Path, manifest: Manifest, batch: int) -> str:
    """The model of single steps with its states in the server, and its name."""
    name = f"{model_name(manifest)}-step"
    ends = _copied(source, folder / name, manifest, manifest.states)
    config = _common(name, manifest, ends, batch)
    into = {state.input for state in manifest.states}
    out = {state.output for state in manifest.states}
    config["input"] = [_tensor(end, True) for end in ends.inputs if end.name not in into]
    config["output"] = [_tensor(end, True) for end in ends.outputs if end.name not in out]
    config["sequence_batching"] = {
        "max_sequence_idle_microseconds": IDLE_US,
        "oldest": {
            "max_candidate_sequences": CANDIDATES * batch,
            "max_queue_delay_microseconds": QUEUE_DELAY_US,
        },
        "state": _states(ends, manifest.states, states, folder / name / "initial_state"),
    }
    _write(folder / name / "config.pbtxt", config)
    return name


def model_name(manifest: Manifest) -> str:
    """The network's name as a folder and a part of a URL can have it."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", manifest.network).strip("-") or "network"


def _copied(source: Path, folder: Path, manifest: Manifest, states: Sequence[StateInfo]) -> Ends:
    """The graph in the folder of the model's first version; BadInput where its ends are not the manifest's.

    The server runs the highest version that it finds.
    """
    (folder / "1").mkdir(parents=True)
    ends = write_batch_first(source, folder / "1" / "model.onnx")
    last = manifest.states if manifest.final_states or states else ()
    wanted = (
        {tensor.name for tensor in manifest.input.tensors} | {state.input for state in states},
        {tensor.name for tensor in manifest.output.tensors} | {state.output for state in last},
    )
    found = tuple({end.name: end for end in each} for each in (ends.inputs, ends.outputs))
    found[0].pop("timesteps", None)
    if wanted != tuple(map(set, found)) or any(end.type not in TYPES for each in found for end in each.values()):
        raise BadInput(f"'{source}' has other inputs or outputs than the manifest says: export it again")
    return ends


def _common(name: str, manifest: Manifest, ends: Ends, batch: int) -> Message:
    for end in (*ends.inputs, *ends.outputs):
        if len(end.dims) < 2 and end.name != "timesteps":
            raise BadInput(
                f"--target triton: tensor '{end.name}' has no sizes beside the batch, Triton takes none such"
            )
    said = {
        "network": manifest.network,
        "graph_sha256": manifest.files["graph.nir"],
        "output": manifest.output.decoding,
        "dt": repr(manifest.dt),
        "T": str(manifest.timesteps or "dynamic"),
    }
    tf32 = {"name": "cuda", "parameters": [{"key": "use_tf32", "value": "0"}]}  # what is called fp32 here is fp32
    return {
        "name": name,
        "backend": "onnxruntime",
        "max_batch_size": batch,
        "parameters": [{"key": f"stdl.{key}", "value": {"string_value": value}} for key, value in said.items()],
        "optimization": {"execution_accelerators": {"gpu_execution_accelerator": [tf32]}},
    }


def _tensor(end: End, batched: bool) -> Message:
    """An input or output; where the server makes the batch, that size is not said."""
    return {"name": end.name, "data_type": Word(TYPES[end.type]), "dims": _dims(end, batched)}


def _dims(end: End, batched: bool) -> list[int]:
    sizes = end.dims[1:] if batched else end.dims
    return [-1 if isinstance(size, str) else size for size in sizes]


def _states(ends: Ends, infos: Sequence[StateInfo], stored: Path, folder: Path) -> list[Message]:
    """Every state with where it starts; a file in `initial_state/` holds what is not 0 (row-major, little-endian)."""
    initial, inputs, found = read_arrays(stored), {end.name: end for end in ends.inputs}, []
    for number, info in enumerate(infos):
        end, values = inputs[info.input], initial.get(info.input)
        if values is None or [*values.shape] != _dims(end, True) or values.dtype.name != info.dtype:
            raise BadInput(f"'{stored}' does not hold the state '{info.input}' of the step graph: export it again")
        kind, dims = Word(TYPES[end.type]), _dims(end, True)
        start: Message = {"name": f"{info.node} {info.var}", "data_type": kind, "dims": dims}
        if values.any():
            start["data_file"] = f"{number:04d}.bin"
            folder.mkdir(exist_ok=True)
            with atomic_file(folder / start["data_file"]) as part:
                part.write_bytes(np.ascontiguousarray(values, STORED[info.dtype]).tobytes())
        else:
            start["zero_data"] = True
        names = {"input_name": info.input, "output_name": info.output}
        found.append(names | {"data_type": kind, "dims": dims, "initial_state": [start]})
    return found


def _write(path: Path, config: Message) -> None:
    with atomic_file(path) as part:
        part.write_text("".join(f"{line}\n" for line in _lines(config)), encoding="utf-8")


def _lines(message: Message) -> list[str]:
    """A message in protobuf's text format."""
    lines = []
    for key, value in message.items():
        if isinstance(value, list) and all(isinstance(item, int) for item in value):
            lines.append(f"{key}: [{', '.join(map(str, value))}]")
            continue
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict):
                lines += [f"{key} {{", *(f"  {line}" for line in _lines(item)), "}"]
            else:
                lines.append(f"{key}: {_text(item)}")
    return lines


def _text(value: Word | bool | int | str) -> str:
    """A value in protobuf's text format; of a text every byte that is no plain letter or sign, in octal digits."""
    if isinstance(value, Word):
        return value.text
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    plain = (chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:03o}" for byte in value.encode())
    return f'"{"".join(plain)}"'
