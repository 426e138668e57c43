"""What holds for an export: what the graph says, overruled by `--set`, overruled by an option of its own.

Nothing is written here. A bundle that gets new parts is held to what its golden samples prove.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import nir

from stdl_export import dialects
from stdl_export import graph as graphs
from stdl_export.bundle import Bundle
from stdl_export.common.errors import BadInput
from stdl_export.manifest import FP32, Arithmetic
from stdl_export.options import Options, Overrides, PrecisionOverrides
from stdl_export.source import Source


def described(opened: Source, overrides: Overrides) -> Source:
    """The source, its name, classes and prediction as `--set` says them."""
    return replace(
        opened,
        name=overrides.network or opened.name,
        classes=overrides.classes or opened.classes,
        prediction=overrides.prediction or opened.prediction,
    )


def settings(graph: nir.NIRGraph, overrides: Overrides, options: Options) -> graphs.Settings:
    """What the graph says, overruled by `--set`, overruled by an option of its own.

    A dialect that is given anew takes its dt along only where nobody else says one; that of a dialect file counts as
    said by whoever gives the file.
    """
    dialect, file_dt = _dialect(graph, overrides, options)
    said = graphs.settings(graph)
    if "stdl.dt" not in graph.metadata:
        said = replace(said, dt=dialects.choices(dialects.get(dialect)).dt or graphs.DT)
    spoken: dict[str, Any] = {"dialect": dialect}
    spoken["dt"] = next((dt for dt in (options.dt, overrides.dt, file_dt) if dt is not None), None)
    spoken |= {key: getattr(overrides, key) for key in ("reset", "input", "output")}
    if overrides.reset is not None and (base := dialects.base(dialects.get(dialect))) != "nir":
        raise BadInput(f"--set reset is for dialect nir, this is {base}: write --set dialect.reset={overrides.reset}")
    settings = replace(said, **{key: value for key, value in spoken.items() if value is not None})
    if options.timesteps is not None:
        settings = replace(settings, T=_timesteps(options.timesteps))
    return settings


def arithmetic(opened: Source, overrides: Overrides, options: Options) -> Arithmetic:
    """As the options say, else as the bundle does that is exported again."""
    said = overrides.precision
    if options.precision is None and said is None:
        return FP32 if opened.bundle is None else opened.bundle.manifest.arithmetic
    said = said or PrecisionOverrides()
    precision = options.precision or (FP32 if opened.bundle is None else opened.bundle.manifest.arithmetic).precision
    return Arithmetic(precision=precision, membrane=said.membrane, fp32_nodes=tuple(sorted(said.nodes)))


def check_in_place(opened: Source, graph: nir.NIRGraph, overrides: Overrides, options: Options) -> None:
    """Parts are added to a bundle only. What its graph and golden samples say cannot change in place."""
    if opened.bundle is None:
        raise BadInput(f"'{options.source}' is not a bundle, so --out is needed: name a new folder")
    about_the_graph = overrides.model_fields_set - {"tensorrt", *overrides.chips}  # those are about a target
    if graphs.settings(graph) != opened.bundle.manifest.settings or options.golden or options.inputs or about_the_graph:
        raise BadInput(
            f"bundle '{options.source}' would no longer be what its golden samples prove: give --out, a new folder"
        )


def check_same_arithmetic(bundle: Bundle, wanted: Arithmetic, options: Options) -> None:
    """One bundle has one precision: its tolerances hold for all that is in it."""
    if wanted != bundle.manifest.arithmetic:
        has = bundle.manifest.arithmetic.precision
        raise BadInput(
            f"bundle '{options.source}' is {has}: give --out, a new folder, for --precision {wanted.precision}"
        )


def _dialect(graph: nir.NIRGraph, overrides: Overrides, options: Options) -> tuple[str, float | None]:
    """The dialect of `--dialect` and `--set dialect...`, as `stdl.dialect` says it, and the dt that they say.

    That dt is then the graph's, and the dialect says none.
    """
    found = graphs.dialect(graph) if options.dialect is None else dialects.read(options.dialect)
    if overrides.dialect is not None:
        found = dialects.changed(found, overrides.dialect, "--set dialect")
    said = dialects.text(found)
    if said in dialects.DIALECTS or found.graph.dt is None:
        return said, None
    graph_choices = found.graph.model_dump(exclude_unset=True, exclude={"dt"})
    without = found.model_copy(update={"graph": dialects.GraphChoices(**graph_choices)})
    return dialects.text(without), found.graph.dt


def _timesteps(text: str) -> int | None:
    if text == "dynamic":
        return None
    if not re.fullmatch(r"[0-9]{1,6}", text) or int(text) < 1:
        raise BadInput(f"--timesteps '{text:.40}': write a whole number from 1 to 999999, or dynamic")
    return int(text)
