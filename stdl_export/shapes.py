"""The shape of what each node of a graph puts out, without T and B, from what its Inputs declare and its nodes take."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import nir

from stdl_export.common.errors import BadInput, join_reasons
from stdl_export.inline import Path as NodeName
from stdl_export.primitives import MAX_ELEMENTS, PRIMITIVES, Refused, Shape, shape_of
from stdl_export.problem import Problem
from stdl_export.structure import Structure


def shapes_of(made: Structure) -> dict[NodeName, Shape]:
    """The output shape of each node of a checked graph's structure."""
    found: dict[NodeName, Shape] = {}
    refusals = [*infer(made, found)]
    if refusals:
        raise BadInput(join_reasons(refusals))
    return found


def infer(made: Structure, found: dict[NodeName, Shape], refused: Collection[NodeName] = ()) -> Iterator[Problem]:
    """Fill `found` with output shapes; what lies behind a refused node is left out, so each cause is told once.

    On a loop a node's shape follows from whichever of its sources is known first; all of them are compared afterwards.
    """
    waiting = [path for path in made.order if path not in refused]
    arrived: dict[NodeName, Shape] = {}
    stuck = False
    while waiting:
        left = []
        for path in waiting:
            shape = _arriving(made, path, found, refused, stuck)
            if shape is None:
                left.append(path)
                continue
            stuck = False
            arrived[path] = shape
            try:
                found[path] = _output_shape(made, path, shape)
            except Refused as refusal:
                yield Problem(path, type(made.nodes[path]).__name__, str(refusal))
        if len(left) == len(waiting):
            if stuck:
                break
            stuck = True
        waiting = left
    if not refused and set(arrived) <= set(found):  # else what is told of others is the reason
        for path in waiting:
            reason = "nothing says what shape its input has: no path leads to it from an Input"
            yield Problem(path, type(made.nodes[path]).__name__, reason)
    for path in arrived:
        shaped = [(source, found[source]) for source in dict.fromkeys(made.sources[path]) if source in found]
        if len({shape for _, shape in shaped}) > 1:
            said = ", ".join(f"'{source}' {shape}" for source, shape in shaped)
            reason = f"its inputs are summed but differ in shape: {said}"
            yield Problem(path, type(made.nodes[path]).__name__, reason)


def _arriving(
    made: Structure, path: NodeName, found: Mapping[NodeName, Shape], refused: Collection[NodeName], guess: bool
) -> Shape | None:
    """The shape that a node gets: that of a source, or of an Input itself; where nothing leads on, what it takes."""
    node = made.nodes[path]
    if isinstance(node, nir.Input):
        return _input_shape(node, _readers(made, path, refused))
    for source in made.sources[path]:
        if source in found:
            return found[source]
    return PRIMITIVES[type(node)].input_shape(node) if guess else None


def _output_shape(made: Structure, path: NodeName, arriving: Shape) -> Shape:
    node = made.nodes[path]
    shape = arriving if isinstance(node, nir.Input) else PRIMITIVES[type(node)].output_shape(node, arriving)
    if math.prod(shape) > MAX_ELEMENTS:
        raise Refused(f"it puts out shape {shape}: accepted are at most {MAX_ELEMENTS} elements a sample")
    if path in made.steps and (longest := int(made.steps[path].max())) * math.prod(shape) > MAX_ELEMENTS:
        raise Refused(f"it keeps {longest} steps of {shape}: accepted are at most {MAX_ELEMENTS} elements a sample")
    return shape


def _input_shape(node: nir.Input, readers: list[Any]) -> Shape:
    """What an Input declares, less leading ones where only that fits those who read it; a lone (1,) may be anything."""
    declared = shape_of(node)
    options = [declared[at:] for at in range(len(declared)) if set(declared[:at]) <= {1}]
    if math.prod(declared) == 1:
        options += [shape for each in readers if (shape := PRIMITIVES[type(each)].input_shape(each)) is not None]
    return next((shape for shape in options if all(_takes(each, shape) for each in readers)), declared)


def _readers(made: Structure, path: NodeName, refused: Collection[NodeName]) -> list[Any]:
    """The nodes that an Input's shape must fit, behind a delay that the dialect adds as well."""
    names = {path, f"{path}/delay"}
    found = [made.nodes[to] for to, read in made.sources.items() if names & set(read) and to not in refused]
    return [node for node in found if not isinstance(node, nir.Output)]


def _takes(node: Any, shape: Shape) -> bool:
    try:
        PRIMITIVES[type(node)].output_shape(node, shape)
    except Refused:
        return False
    return True
