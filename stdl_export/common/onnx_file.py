"""Looks through an ONNX file before an engine opens it: it must be whole, and must not draw other files in.

A tensor of an ONNX graph may name a file that holds its numbers, and operators of other domains may load what they
like. `stdl-export` writes neither, so a file with one of them is refused. The structure is read here, a few fields of
it, since runtimes do without the onnx package; https://protobuf.dev/programming-guides/encoding and onnx.proto have it.
Weights are skipped, not read: the time goes with the number of nodes.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from stdl_export.common.errors import BadInput

MAX_DEPTH = 50  # graphs inside nodes of graphs; ours have a single loop's body
MAX_BYTES = 2 << 30  # of a protobuf message
DOMAINS = (b"", b"ai.onnx")

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5


class Field(NamedTuple):
    """One field: its number, and the varint, or where its bytes begin and end."""

    number: int
    wire: int
    value: int
    begin: int
    end: int


# Message -> number of a field that holds a message -> which. What is not named here holds no tensor and no node.
MESSAGES: Mapping[str, Mapping[int, str]] = MappingProxyType(
    {
        "model": {7: "graph", 8: "opset", 20: "training", 25: "function"},
        "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
        "node": {5: "attribute"},
        "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse tensor", 23: "sparse tensor"},
        "sparse tensor": {1: "tensor", 2: "tensor"},
        "tensor": {},
        "opset": {},
    }
)
TENSOR_NAME, EXTERNAL_DATA, DATA_LOCATION = 8, 13, 14
NODE_NAME, NODE_DOMAIN, OPSET_DOMAIN = 3, 7, 1


def check(path: Path) -> None:
    """Refuse a file that is no ONNX model, refers to other files, or uses operators that are not ONNX's own."""
    if not path.is_file():
        raise BadInput(f"'{path}' does not exist: export the bundle again")
    size = path.stat().st_size
    if not 0 < size <= MAX_BYTES:
        raise BadInput(f"'{path}' is no ONNX model: it has {size} bytes; export it again")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        try:
            seen = _walk(content, "model", 0, size, 0)
        except _Damage as damage:
            raise BadInput(f"'{path}' {damage}; export it again") from None
    if 7 not in seen:
        raise BadInput(f"'{path}' is no ONNX model: it holds no graph; export it again")


class _Damage(Exception):
    """What is wrong with a file."""


def _walk(content: mmap.mmap, message: str, begin: int, end: int, depth: int) -> set[int]:
    """Check a message and all in it; returns the numbers of the fields that it has."""
    if depth > MAX_DEPTH:
        raise _Damage(f"holds graphs inside graphs, more than {MAX_DEPTH} deep")
    if message in ("training", "function"):
        raise _Damage(f"holds a {message}, which is refused")
    seen = set()
    for field in _fields(content, begin, end):
        seen.add(field.number)
        if field.wire == LENGTH and (inner := MESSAGES[message].get(field.number)) is not None:
            _walk(content, inner, field.begin, field.end, depth + 1)
        elif message == "tensor" and (field.number == EXTERNAL_DATA or (field.number == DATA_LOCATION and field.value)):
            name = _text(content, begin, end, TENSOR_NAME)
            raise _Damage(f"says that the numbers of tensor '{name}' lie in another file, which is refused")
        elif (message, field.number) in (("node", NODE_DOMAIN), ("opset", OPSET_DOMAIN)):
            domain = content[field.begin : field.end]
            if domain not in DOMAINS:
                name = f"node '{_text(content, begin, end, NODE_NAME)}'" if message == "node" else "operators"
                raise _Damage(f"uses {name} of domain {domain[:40].decode('latin-1')!a}, only ONNX's own are taken")
    return seen


def _fields(content: mmap.mmap, begin: int, end: int) -> Iterator[Field]:
    at = begin
    while at < end:
        key, at = _varint(content, at, end)
        number, wire = key >> 3, key & 7
        value, start = 0, at
        if wire == VARINT:
            value, at = _varint(content, at, end)
        elif wire == LENGTH:
            length, start = _varint(content, at, end)
            at = start + length
        elif wire in (FIXED64, FIXED32):
            at += 8 if wire == FIXED64 else 4
        else:
            raise _Damage(f"is no ONNX model: byte {start - 1} begins no field")
        if at > end or not number:
            raise _Damage(f"is no ONNX model: the field at byte {start} ends behind its message")
        yield Field(number, wire, value, start, at)


def _varint(content: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    """A number of up to 64 bits, seven in each byte, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _Damage(f"is no ONNX model: it ends within a number at byte {at}")


def _text(content: mmap.mmap, begin: int, end: int, number: int) -> str:
    """A field of a message as a short text that can be shown."""
    found = [content[field.begin : field.end] for field in _fields(content, begin, end) if field.number == number]
    return ascii(found[0][:40].decode("latin-1"))[1:-1] if found else ""
