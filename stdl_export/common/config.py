"""TOML in, `--set key=value` on top, pydantic to check, one readable line where it does not hold."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

import pydantic

from stdl_export.common.errors import BadInput, join_reasons, one_line
from stdl_export.common.names import nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Model = TypeVar("Model", bound=pydantic.BaseModel)

Count = Annotated[int, pydantic.Field(ge=1)]
"""A whole number from 1 on."""

Natural = Annotated[int, pydantic.Field(ge=0)]
"""A whole number from 0 on."""

AtLeastOne = pydantic.Field(min_length=1)
"""Marks a tuple that may not be empty."""

Name = Annotated[str, pydantic.Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.\-]*$")]
"""A name that every format can carry: no `/` (it joins paths in NIR), no white space, no leading dot."""

PositiveFloat = Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]
NaturalFloat = Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)]
FiniteFloat = Annotated[float, pydantic.Field(allow_inf_nan=False)]
Fraction = Annotated[float, pydantic.Field(gt=0, lt=1)]


def read_json(text: str) -> Any:
    """Parse JSON; `ValueError` or `RecursionError` where it is none, or where a key stands twice in one object: one of
    the two would be dropped without a word.
    """
    return json.loads(text, object_pairs_hook=_unique)


def read_json_object(path: Path, most_bytes: int, way_out: str) -> dict[str, Any]:
    """The JSON object in a file that may come from anywhere; BadInput on one line, with a way out, where it is none."""
    try:
        if path.stat().st_size > most_bytes:
            raise BadInput(f"'{path}' is larger than {most_bytes >> 20} MiB: it was refused")
        found = read_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"'{path}' does not exist: check the path, or {way_out}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"'{path}' is not JSON: {one_line(str(error)):.160}: {way_out}") from None
    if not isinstance(found, dict):
        raise BadInput(f"'{path}' is not a JSON object: {way_out}")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"key '{twice:.80}' stands twice in one object")
    return found


def Choice(key: str) -> Any:
    """Mark a union of tables as told apart by the value of one key."""
    return pydantic.Field(discriminator=key)


class Table(pydantic.BaseModel):
    """A checked, read-only table of named values, as in a recipe or a network's spec; unknown keys are errors."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


def read_toml(path: Path) -> dict[str, Any]:
    """Parse a TOML file; a syntax error names the file and the line."""
    try:
        table: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"'{path}' does not exist: check the path") from None
    except UnicodeDecodeError:
        raise BadInput(f"'{path}' is not UTF-8 text: a recipe is a TOML file") from None
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"'{path}' is not valid TOML: {error}") from None
    return table


def apply_settings(table: dict[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """Lay `key.sub=value` settings over a table, in place. Keys are TOML dotted keys.

    Values are TOML, bare words are strings.
    """
    for setting in settings:
        key, equals, text = _split_setting(setting)
        if not equals or not key.strip():
            raise BadInput(f"--set '{setting}': write key=value, for example --set train.epochs=5")
        path = _keys(key.strip(), setting)
        target = table
        for part in path[:-1]:
            target = target.setdefault(part, {})
            if not isinstance(target, dict):
                raise BadInput(f"--set '{setting}': '{part}' is a value, not a table")
        target[path[-1]] = _value(text.strip())
    return table


def _split_setting(setting: str) -> tuple[str, str, str]:
    """Split at the first `=` that is not inside a quoted key."""
    match = re.match(r'((?:"[^"]*"|\'[^\']*\'|[^="\'])*)(=)(.*)', setting, re.DOTALL)
    return (match[1], match[2], match[3]) if match else (setting, "", "")


def _keys(key: str, setting: str) -> list[str]:
    try:
        table: Any = tomllib.loads(f"{key} = 0")
    except tomllib.TOMLDecodeError:
        raise BadInput(f"--set '{setting}': '{key}' is not a dotted key such as train.epochs") from None
    path = []
    while isinstance(table, dict) and table:
        part, table = next(iter(table.items()))
        path.append(part)
    return path


def _value(text: str) -> Any:
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return table["value"] if len(table) == 1 else text


def validate(model: type[Model], data: Mapping[str, Any], where: str) -> Model:
    """Check `data` against a pydantic model.

    All that is wrong on one line, an unknown key with the nearest known one.
    """
    try:
        return model.model_validate(data)
    except pydantic.ValidationError as error:
        reasons = [_reason(model, item) for item in error.errors(include_url=False)]
        raise BadInput(f"{where}: {join_reasons(reasons)}") from None


def _reason(model: type[pydantic.BaseModel], item: Any) -> str:
    path = [str(part) for part in item["loc"]]
    name = ".".join(path)
    if item["type"] == "extra_forbidden":
        known = _known_keys(model, path[:-1])
        guess = nearest(path[-1], known)
        hint = f"did you mean '{guess}'?" if guess else f"known keys: {', '.join(sorted(known))}"
        return f"unknown key '{name}': {hint}"
    if item["type"] == "missing":
        return f"'{name}' is missing"
    message = str(item["msg"]).removeprefix("Value error, ")
    if not name:
        return message
    if isinstance(item["input"], Mapping):  # what is wrong with a whole table does not show in a part of it
        return f"'{name}': {message}"
    return f"'{name}' = {item['input']!r:.60}: {message}"


def _known_keys(model: type[pydantic.BaseModel], path: list[str]) -> set[str]:
    """Names of the fields of the (nested) model that `path` leads to."""
    current: Any = model
    parts = iter(path)
    for part in parts:
        field = current.model_fields.get(part) if _is_model(current) else None
        current = _model_in(field.annotation) if field else None
        if field and get_origin(field.annotation) is dict:
            next(parts, None)  # the key of a table of tables, which is free
    return set(current.model_fields) if _is_model(current) else set()


def _model_in(annotation: Any) -> Any:
    """The model that a field holds, also where it may be None."""
    models = [kind for kind in (annotation, *get_args(annotation)) if _is_model(kind)]
    return models[0] if models else None


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, pydantic.BaseModel)
