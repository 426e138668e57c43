"""How a framework turns NIR's continuous time into steps, as data: `dialects.toml`, one entry a framework.

NIR says `tau dv/dt = (v_leak - v) + r i` and leaves open what one step of dt computes, so a graph alone does not
determine its output. A dialect settles it, with a table of choices for each node type (`Rule`) and some for the whole
graph. What a dialect does not say it takes from the one it names as `base`, and that from dialect `nir`; for a node the
choices are laid over each other in this order:

    types.<type>, types."<type>@cycle" of nir, of the base, then of the dialect itself; `reset`; nodes.<path>

A graph carries its dialect as metadata `stdl.dialect`: the name of one, or one as a JSON string (`text`, `get`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import pydantic

from stdl_export import expressions
from stdl_export.common.config import Natural, PositiveFloat, Table, read_json, read_toml, validate
from stdl_export.common.errors import BadInput, join_reasons, one_line
from stdl_export.common.names import unknown

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Spike = Literal[">", ">=", "floor"]
SpikeFrom = Literal["new", "prev"]
ResetWhen = Literal["now", "next_sub", "next_drop", "now_nodouble"]
SynapseOrder = Literal["update_then_use", "jump_use_decay", "jump_decay_use", "use_then_update"]
Output = Literal["new", "prev"]
Feedback = Literal["delay_source_output", "delay_target_input"]
FlattenDims = Literal["sample", "batch"]

MAX_FILE_BYTES = 1 << 20
CYCLE = "@cycle"


def _expression(value: Any) -> Any:
    """Numbers may be written without quotes; a text must parse."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = repr(float(value))
    if isinstance(value, str):
        expressions.parse(value)
    return value


Expression = Annotated[str, pydantic.BeforeValidator(_expression)]
"""A coefficient, see `expressions`: names are the node's own parameters, dt, and coefficients before it."""


RESET_WORDS = ("zero", "subtract", "none")


def _reset(value: Any) -> Any:
    return value if value in RESET_WORDS else _expression(value)


Reset = Annotated[str, pydantic.BeforeValidator(_reset)]
"""`subtract` the threshold, `none`, or the value that v is set to: `zero`, `v_reset`, a number, an expression."""


class Rule(Table):
    """The choices for one node; those it leaves out hold as they were. Equations: docs/dialects.md."""

    syn_decay: Expression | None = None
    syn_gain: Expression | None = None
    syn_leak: Expression | None = None
    syn_order: SynapseOrder | None = None
    i_init: Expression | None = None
    decay: Expression | None = None
    gain: Expression | None = None
    leak: Expression | None = None
    v_init: Expression | None = None
    output: Output | None = None
    spike: Spike | None = None
    spike_from: SpikeFrom | None = None
    reset: Reset | None = None
    reset_when: ResetWhen | None = None
    v_min: Expression | None = None
    out_scale: Expression | None = None

    def over(self, lower: Rule) -> Rule:
        """This rule laid over another: what it says holds. Null is as good as nothing, but for `v_min`: no bound."""
        return Rule.model_construct(**(lower.said() | self.said()))

    def said(self) -> dict[str, Any]:
        """The choices that are made here."""
        made = {key: getattr(self, key) for key in self.model_fields_set}
        return {key: value for key, value in made.items() if value is not None or key == "v_min"}


class GraphChoices(Table):
    """The choices for the whole graph. dt in the unit of the graph's time constants, delays in steps."""

    dt: PositiveFloat | None = None
    feedback: Feedback | None = None
    rec_input_via: str | None = None
    """Accepted and ignored: how the frameworks wire it has no effect on the numbers."""
    flatten_dims: FlattenDims | None = None
    drop_bias: tuple[str, ...] | None = None
    """Paths of nodes, or `Affine@cycle`, whose bias the framework ignores."""
    delays: dict[str, Natural] | None = None
    """Node type -> steps of delay behind every node of that type."""

    def over(self, lower: GraphChoices) -> GraphChoices:
        """As for a `Rule`; null is as good as nothing."""
        said = {key: value for key, value in self if value is not None}
        return lower.model_copy(update=said)


class Dialect(Table):
    """A dialect as written; `rule` and `choices` lay it over what it is based on."""

    base: str | None = None
    explanation: str = ""
    graph: GraphChoices = GraphChoices()
    reset: Reset | None = None
    """Short for `reset` of every spiking node."""
    types: dict[str, Rule] = pydantic.Field(default_factory=dict)
    nodes: dict[str, Rule] = pydantic.Field(default_factory=dict)


_SYNAPSE = ("syn_decay", "syn_gain", "syn_leak", "syn_order", "i_init")
_MEMBRANE = ("decay", "gain", "leak", "v_init")
_SPIKE = ("spike", "spike_from", "reset", "reset_when", "v_min", "out_scale")

FIELDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "IF": (*_MEMBRANE, *_SPIKE),
        "LIF": (*_MEMBRANE, *_SPIKE),
        "CubaLIF": (*_SYNAPSE, *_MEMBRANE, *_SPIKE),
        "LI": (*_MEMBRANE, "output"),
        "CubaLI": (*_SYNAPSE, *_MEMBRANE, "output"),
        "I": (*_MEMBRANE, "output"),
        "Threshold": ("spike",),
    }
)
"""The node types that a dialect has a say in, and the choices that each takes."""

SPIKING = ("IF", "LIF", "CubaLIF")

_LEAKY = ("tau", "r", "v_leak")
_CUBA = ("tau_syn", "tau_mem", "r", "v_leak", "w_in")

PARAMETERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "IF": ("r", "v_threshold", "v_reset"),
        "LIF": (*_LEAKY, "v_threshold", "v_reset"),
        "CubaLIF": (*_CUBA, "v_threshold", "v_reset"),
        "LI": _LEAKY,
        "CubaLI": _CUBA,
        "I": ("r",),
        "Threshold": ("threshold",),
    }
)
"""The names that expressions of a node type may use besides dt: the node's own fields."""

NODE_TYPES = (
    *FIELDS, "Affine", "AvgPool2d", "Conv1d", "Conv2d", "Delay", "Flatten", "Input", "Linear", "Output", "Scale",
    "SumPool2d",
)  # fmt: skip
"""The NIR node types that `delays` may name."""

COEFFICIENTS = (
    "syn_decay", "syn_gain", "syn_leak", "i_init", "decay", "gain", "leak", "v_init", "v_min", "out_scale", "reset",
)  # fmt: skip
"""Choices that are expressions, in the order of evaluation: each may use those before it."""


@lru_cache(maxsize=64)
def get(said: str) -> Dialect:
    """The dialect that `stdl.dialect` says: by name, or as JSON. BadInput where it is neither, or a wrong one."""
    if not said.lstrip().startswith("{"):
        if said not in DIALECTS:
            raise unknown("dialect", said, DIALECTS)
        return DIALECTS[said]
    return checked(_json(said, "dialect"), "dialect")


def read(name: str) -> Dialect:
    """The dialect of `--dialect`: a known name, or a TOML or JSON file; one with a table `dialect` means that table."""
    path = Path(name)
    if name in DIALECTS:
        return DIALECTS[name]
    if path.suffix not in (".toml", ".json"):
        raise BadInput(f"{unknown('dialect', name, DIALECTS)}; or give a .toml or .json file")
    if not path.is_file():
        raise BadInput(f"dialect '{name}' does not exist or is no file: check the path")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise BadInput(f"dialect '{name}' is larger than {MAX_FILE_BYTES >> 20} MiB: it was refused")
    content = read_toml(path) if path.suffix == ".toml" else _json(_text(path), f"'{name}'")
    inner = content.get("dialect")
    return checked(inner if isinstance(inner, dict) else content, f"'{name}'")


def checked(table: Mapping[str, Any], where: str) -> Dialect:
    """A dialect from a plain table; BadInput with every reason against it."""
    dialect = validate(Dialect, table, where)
    if dialect.base is not None and dialect.base not in DIALECTS:
        raise BadInput(f"{where}: {unknown('base', dialect.base, DIALECTS)}")
    reasons = [*_type_reasons(dialect)]
    if reasons:
        raise BadInput(f"{where}: {join_reasons(reasons)}")
    return dialect


def changed(dialect: Dialect, changes: Mapping[str, Any], where: str) -> Dialect:
    """A dialect with single choices changed (`--set dialect.<key>=<value>`).

    A `reset` for the whole graph goes over what the dialect says of single types and nodes.
    """
    said = text(dialect)
    table: dict[str, Any] = {"base": said} if said in DIALECTS else _plain(dialect)
    if "reset" in changes:
        for rule in [*table.get("types", {}).values(), *table.get("nodes", {}).values()]:
            rule.pop("reset", None)
    return checked(_merged(table, changes), where)


def text(dialect: Dialect) -> str:
    """What `stdl.dialect` says of a dialect: its name, or all of it as JSON."""
    for name, known in DIALECTS.items():
        if dialect == known or dialect == Dialect(base=name):
            return name
    return json.dumps(_plain(dialect), sort_keys=True, separators=(",", ":"))


def base(dialect: Dialect) -> str:
    """The name of the dialect that holds where this one says nothing: itself, where it is a known one."""
    said = text(dialect)
    return said if said in DIALECTS else dialect.base or NIR_NAME


def choices(dialect: Dialect) -> GraphChoices:
    """The choices for the whole graph, complete but for dt, which a dialect need not say."""
    return dialect.graph.over(DIALECTS[base(dialect)].graph.over(NIR.graph))


def rule(dialect: Dialect, kind: str, path: str, *, cyclic: bool = False, reset: str | None = None) -> Rule:
    """All choices for one node. kind: a key of `FIELDS`; cyclic: does it lie on a cycle?

    reset: what the graph's own metadata `stdl.reset` says; it goes over the named dialect, and under single choices.
    """
    found = Rule()
    for layer in (NIR, DIALECTS[base(dialect)]):
        found = _typed(layer, kind, cyclic).over(found)
    if kind in SPIKING and reset is not None:
        found = Rule(reset=reset, reset_when="now").over(found)
    if text(dialect) not in DIALECTS:
        found = _typed(dialect, kind, cyclic).over(found)
        if kind in SPIKING and dialect.reset is not None:
            found = Rule(reset=dialect.reset).over(found)
        found = dialect.nodes.get(path, Rule()).over(found)
    return found


def reasons(kind: str, said: Rule) -> list[str]:
    """What a rule, complete or not, says that a node type cannot take, or that contradicts itself."""
    found = [f"a {kind} takes no '{key}': known are {', '.join(FIELDS[kind])}" for key in _foreign(kind, said)]
    found += _name_reasons(kind, said)
    if kind == "Threshold" and said.spike == "floor":
        found.append("a Threshold takes spike '>' or '>='")
    pairs = {"next_sub": "subtract", "now_nodouble": "subtract", "next_drop": "zero"}
    wanted = pairs.get(said.reset_when or "")
    if wanted is not None and said.reset not in (None, wanted):
        found.append(f"reset_when '{said.reset_when}' goes with reset '{wanted}', not '{said.reset}'")
    if said.reset_when == "now_nodouble" and said.spike == "floor":
        found.append("reset_when 'now_nodouble' takes spike '>' or '>=', not 'floor'")
    if said.spike_from == "prev" and said.reset_when not in (None, "now", "next_sub"):
        found.append(f"spike_from 'prev' goes with reset_when 'now' or 'next_sub', not '{said.reset_when}'")
    return found


def drops_bias(chosen: GraphChoices, path: str, kind: str, cyclic: bool) -> bool:
    """Is a node one of those that `drop_bias` names?"""
    return any(name == path or (cyclic and name == kind + CYCLE) for name in chosen.drop_bias or ())


def _typed(layer: Dialect, kind: str, cyclic: bool) -> Rule:
    found = layer.types.get(kind, Rule())
    return layer.types.get(kind + CYCLE, Rule()).over(found) if cyclic else found


def _foreign(kind: str, said: Rule) -> list[str]:
    return [key for key, value in said.said().items() if key not in FIELDS[kind] and value is not None]


def _name_reasons(kind: str, said: Rule) -> list[str]:
    """Names that an expression may not use: only the node's fields, dt, and coefficients before it."""
    found = []
    for at, key in enumerate(COEFFICIENTS):
        value = getattr(said, key)
        if value is None or key not in FIELDS[kind] or (key == "reset" and value in RESET_WORDS):
            continue
        known = [*PARAMETERS[kind], "dt", *(name for name in COEFFICIENTS[:at] if name in FIELDS[kind])]
        try:
            expressions.check_names(value, known)
        except expressions.ExpressionError as error:
            found.append(f"{key}: {error}")
    return found


def _type_reasons(dialect: Dialect) -> Iterable[str]:
    for key, said in dialect.types.items():
        kind = key.removesuffix(CYCLE)
        if kind not in FIELDS:
            yield f"types: {unknown('node type', kind, FIELDS)}"
            continue
        for reason in reasons(kind, said):
            yield f"types.{key}: {reason}"
    for kind in dialect.graph.delays or {}:
        if kind not in NODE_TYPES:
            yield f"graph.delays: {unknown('node type', kind, NODE_TYPES)}"


def _plain(dialect: Dialect) -> dict[str, Any]:
    """As tables of what was said, for JSON."""
    said = dialect.model_dump(exclude_unset=True, exclude={"explanation"})
    return {key: value for key, value in said.items() if value != {}}


def _merged(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """Tables laid over each other, at every depth."""
    found = dict(lower)
    for key, value in upper.items():
        below = found.get(key)
        found[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return found


def _json(said: str, where: str) -> dict[str, Any]:
    try:
        content = read_json(said)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where} is not JSON: {one_line(str(error)):.160}") from None
    if not isinstance(content, dict):
        raise BadInput(f"{where} is not a JSON object with 'graph', 'types' or 'nodes'")
    return content


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise BadInput(f"'{path}' is not UTF-8 text: a dialect is a TOML or JSON file") from None


def _load() -> dict[str, Dialect]:
    content = tomllib.loads(resources.files("stdl_export").joinpath("dialects.toml").read_text(encoding="utf-8"))
    return {name: checked(table, f"dialect {name}") for name, table in content.items()}


NIR_NAME = "nir"
DIALECTS: Mapping[str, Dialect] = {}
DIALECTS = MappingProxyType(_load())
NIR = DIALECTS[NIR_NAME]
