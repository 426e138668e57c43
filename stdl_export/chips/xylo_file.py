"""A network as Xylo's tools take it: the specification that Rockpool's mapper returns, as .npz and JSON.

`XyloSim.from_specification(**specification)` of Rockpool takes these names. Sizes: I inputs, N hidden neurons, O
outputs, S = 1 or 2 synapses of a hidden neuron; index order source, target, synapse.

    weights_in, weights_rec     int8 [I, N, S], [N, N, S]
    weights_out                 int8 [N, O]
    dash_mem, dash_syn          uint8 [N]   decay: v >> dash a step; dash_syn_2 is that of the second synapse
    dash_mem_out, dash_syn_out  uint8 [O]
    threshold, threshold_out    int16 [N], [O], from 1 on
    bias, bias_out              int16 [N], [O]; `config_from_specification` calls the first `bias_hidden`
    weight_shift_in/_rec/_out   all weights of that matrix are shifted left by so many bits
    aliases                     for each hidden neuron the neurons, at most one, that get a copy of its spikes
    dt                          seconds

Arrays are in the .npz, all else in the JSON file. Both are read as untrusted: nothing is unpickled, every dtype,
shape and range is checked.
"""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from stdl_export.common.config import read_json_object
from stdl_export.common.errors import BadInput, join_reasons, one_line
from stdl_export.common.files import atomic_file

Array = NDArray[Any]

DTYPES: Mapping[str, str] = {
    "weights_in": "int8", "weights_rec": "int8", "weights_out": "int8",
    "dash_mem": "uint8", "dash_syn": "uint8", "dash_syn_2": "uint8", "dash_mem_out": "uint8", "dash_syn_out": "uint8",
    "threshold": "int16", "threshold_out": "int16", "bias": "int16", "bias_out": "int16",
}  # fmt: skip
SHIFTS = ("weight_shift_in", "weight_shift_rec", "weight_shift_out")
MOST_DASH, MOST_SHIFT = 15, 7
MOST_NEURONS = 1000
MOST_BYTES = 64 << 20  # of either file, unpacked: the largest chip's weights are 2 MB
DAMAGED = (
    OSError, EOFError, ValueError, KeyError, SyntaxError, TypeError, NotImplementedError, RuntimeError,
    zipfile.BadZipFile, zlib.error, struct.error,
)  # fmt: skip
"""What the standard library and NumPy raise where an archive is damaged."""


@dataclass(frozen=True, eq=False)
class Specification:
    """See the module; checked when built, BadInput with every reason."""

    weights_in: Array
    weights_rec: Array
    weights_out: Array
    dash_mem: Array
    dash_syn: Array
    dash_syn_2: Array
    dash_mem_out: Array
    dash_syn_out: Array
    threshold: Array
    threshold_out: Array
    bias: Array
    bias_out: Array
    weight_shift_in: int = 0
    weight_shift_rec: int = 0
    weight_shift_out: int = 0
    aliases: tuple[tuple[int, ...], ...] = ()
    dt: float = 1e-3

    def __post_init__(self) -> None:
        reasons = [*_kinds(self)] or [*_sizes(self)] or [*_ranges(self)]
        if reasons:
            raise BadInput(f"not a specification for Xylo: {join_reasons(reasons)}: export the network again")

    @property
    def inputs(self) -> int:
        """I."""
        return int(self.weights_in.shape[0])

    @property
    def hidden(self) -> int:
        """N."""
        return int(self.weights_in.shape[1])

    @property
    def outputs(self) -> int:
        """O."""
        return int(self.weights_out.shape[1])

    @property
    def synapses(self) -> int:
        """S."""
        return int(self.weights_in.shape[2])

    @property
    def biased(self) -> bool:
        """Is any bias other than 0? Only then does the chip add them."""
        return bool(self.bias.any() or self.bias_out.any())

    @property
    def copies(self) -> tuple[tuple[int, ...], ...]:
        """The aliases of each hidden neuron."""
        return self.aliases or ((),) * self.hidden

    def said(self) -> dict[str, Any]:
        """All of it by Rockpool's names, as `XyloSim.from_specification` takes it."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return named | {"aliases": [list(targets) for targets in self.copies]}


def write(specification: Specification, arrays: Path, rest: Path, about: Mapping[str, Any] | None = None) -> None:
    """Write both files; `about` goes into the JSON beside the specification."""
    said = specification.said()
    with atomic_file(arrays) as part, part.open("wb") as file:
        np.savez_compressed(file, **{name: said[name] for name in DTYPES})
    plain = {name: value for name, value in said.items() if name not in DTYPES}
    with atomic_file(rest) as part:
        part.write_text(json.dumps({"specification": plain, **(about or {})}, indent=2) + "\n", encoding="utf-8")


def read(arrays: Path, rest: Path) -> tuple[Specification, dict[str, Any]]:
    """Both files; and what the JSON says beside the specification. BadInput in one line where one is damaged."""
    content = read_json_object(rest, MOST_BYTES, "export the network again")
    plain = content.pop("specification", None)
    if not isinstance(plain, dict):
        raise BadInput(f"'{rest}' has no object 'specification': export the network again")
    found = _arrays(arrays)
    expected = {field.name for field in fields(Specification)}
    for where, names in ((arrays, {*DTYPES} ^ {*found}), (rest, (expected - {*DTYPES}) ^ {*plain})):
        if names:
            raise BadInput(f"'{where}' lacks or does not know '{min(map(str, names))}': export the network again")
    try:
        aliases = plain.pop("aliases")
        if not isinstance(aliases, list) or not all(isinstance(each, list) for each in aliases):
            raise BadInput("aliases must be a list of lists")
        said: dict[str, Any] = {**found, **plain, "aliases": tuple(map(tuple, aliases))}
        return Specification(**said), content
    except BadInput as error:
        raise BadInput(f"'{rest}' and '{arrays}': {error}") from None


def _arrays(path: Path) -> dict[str, Array]:
    """The arrays of the .npz, less than a limit in all."""
    try:
        with zipfile.ZipFile(path) as file:
            if sum(item.file_size for item in file.infolist()) > MOST_BYTES:
                raise BadInput(f"'{path}' unpacks to more than {MOST_BYTES >> 20} MiB: it was refused")
            return {item.filename.removesuffix(".npy"): _array(file, item) for item in file.infolist()}
    except FileNotFoundError:
        raise BadInput(f"'{path}' does not exist: check the path") from None
    except DAMAGED as error:
        raise BadInput(f"'{path}' is not a readable .npz file of plain arrays: {one_line(str(error)):.160}") from None


def _array(file: zipfile.ZipFile, item: zipfile.ZipInfo) -> Array:
    """One array; its header may not promise more than the file holds, since memory is taken as it says."""
    with file.open(item) as content:
        version = np.lib.format.read_magic(content)
        if version != (1, 0):
            raise ValueError(f"array '{item.filename:.40}' has format {version}")
        shape, _, dtype = np.lib.format.read_array_header_1_0(content)
        if dtype.hasobject or int(np.prod(shape, dtype=object)) * dtype.itemsize > item.file_size:
            raise ValueError(f"array '{item.filename:.40}' of {dtype} {shape} does not fit into its file")
    with file.open(item) as content:
        found: Array = np.lib.format.read_array(content, allow_pickle=False)
        return found


def _kinds(found: Specification) -> Iterator[str]:
    """What is not of its dtype at all."""
    for name, dtype in DTYPES.items():
        array = getattr(found, name)
        if not isinstance(array, np.ndarray) or array.dtype != np.dtype(dtype):
            yield f"{name} is {getattr(array, 'dtype', type(array).__name__)}, it must be {dtype}"
    for name in SHIFTS:
        if not _whole(getattr(found, name)):
            yield f"{name} must be a whole number"
    if not isinstance(found.dt, (int, float)) or isinstance(found.dt, bool) or not 0 < found.dt < 1e6:
        yield f"dt must be a positive number of seconds, found {found.dt!r:.40}"
    if not all(_whole(target) for targets in found.aliases for target in targets):
        yield "aliases must be lists of whole numbers"


def _sizes(found: Specification) -> Iterator[str]:
    """Shapes that do not fit each other."""
    if found.weights_in.ndim != 3 or found.weights_in.shape[2] not in (1, 2):
        yield f"weights_in is {found.weights_in.shape}, it must be [inputs, hidden, synapses], with 1 or 2 synapses"
        return
    hidden, synapses = found.weights_in.shape[1:]
    if found.weights_out.ndim != 2:
        yield f"weights_out is {found.weights_out.shape}, it must be [hidden, outputs]"
        return
    outputs = found.weights_out.shape[1]
    if not all(0 < size <= MOST_NEURONS for size in (found.weights_in.shape[0], hidden, outputs)):
        yield f"inputs, hidden neurons and outputs must be 1 to {MOST_NEURONS}, found {found.weights_in.shape}"
        return
    wanted = {"weights_rec": (hidden, hidden, synapses), "weights_out": (hidden, outputs)}
    for name in DTYPES:
        shape = wanted.get(name, (outputs,) if name.endswith("_out") else (hidden,))
        array = getattr(found, name)
        if not name.startswith("weights_in") and array.shape != shape:
            yield f"{name} is {array.shape}, it must be {shape}"
    if found.aliases and len(found.aliases) != hidden:
        yield f"aliases has {len(found.aliases)} lists for {hidden} hidden neurons"


def _ranges(found: Specification) -> Iterator[str]:
    """Numbers that the chip has no bits for, and aliases that lead nowhere."""
    for name in DTYPES:
        array = getattr(found, name)
        if name.startswith("dash") and array.max(initial=0) > MOST_DASH:
            yield f"{name} is up to {array.max()}, the chip has 4 bits: 0..{MOST_DASH}"
        if name.startswith("threshold") and array.min(initial=1) < 1:
            yield f"{name} is down to {array.min()}: below 1 a neuron never stops firing"
    for name in SHIFTS:
        if not 0 <= getattr(found, name) <= MOST_SHIFT:
            yield f"{name} is {getattr(found, name)}: accepted are 0..{MOST_SHIFT}"
    for source, targets in enumerate(found.aliases):
        if len(targets) > 1 or not all(0 <= target < found.hidden for target in targets):
            yield f"aliases of neuron {source} are {list(targets)!r:.40}: at most one, of {found.hidden} neurons"


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def plain_lists(values: Array) -> list[int]:
    """For tools that take lists."""
    return cast("list[int]", np.asarray(values, np.int64).tolist())


def each_list(rows: Sequence[Array]) -> list[list[int]]:
    """The same of rows."""
    return [plain_lists(row) for row in rows]
