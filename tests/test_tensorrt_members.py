"""Every member of TensorRT's Python bindings that our code names is there in every version that we say it runs with.

tests/data/tensorrt_members.json was read off the real bindings, loaded over empty stand-ins for their libraries: names
only, no behaviour. A member that some version lacks has to be guarded by hasattr or getattr in the same function.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MEMBERS: dict[str, dict[str, list[str]]] = json.loads(
    (ROOT / "tests" / "data" / "tensorrt_members.json").read_text(encoding="utf-8")
)
SOURCES = [
    *sorted((ROOT / "stdl_export").glob("tensorrt*.py")),
    ROOT / "stdl_export" / "common" / "tensorrt_log.py",
    *sorted((ROOT / "runtimes" / "stdl_runtimes").glob("tensorrt*.py")),
]

# What our code calls the objects of TensorRT, and what they are there.
OBJECTS = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "config": "IBuilderConfig",
    "parser": "OnnxParser",
    "error": "ParserError",
    "timings": "ITimingCache",
    "engine": "ICudaEngine",
    "handle": "ICudaEngine",
    "context": "IExecutionContext",
    "_context": "IExecutionContext",
    "runtime": "Runtime",
    "runtime_config": "IRuntimeConfig",
    "runtime_cache": "IRuntimeCache",
}
OURS = {"engine": {"handle", "batch", "final_states", "device_bytes", "info", "tf32", "version"}}


def uses(source: ast.Module) -> Iterator[tuple[str, str]]:
    """(class, member) for each attribute of an object of TensorRT; those guarded in the same function are left out."""
    functions = [node for node in ast.walk(source) if isinstance(node, ast.FunctionDef)]
    for function in functions:
        guards = {
            call.args[1].value
            for call in ast.walk(function)
            if isinstance(call, ast.Call)
            and isinstance(call.func, ast.Name)
            and call.func.id in ("hasattr", "getattr")
            and isinstance(call.args[1], ast.Constant)
        }
        for node in ast.walk(function):
            if isinstance(node, ast.Attribute) and node.attr not in guards:
                yield from _use(node)


def _use(node: ast.Attribute) -> Iterator[tuple[str, str]]:
    owner = node.value
    name = owner.id if isinstance(owner, ast.Name) else owner.attr if isinstance(owner, ast.Attribute) else ""
    if name == "trt":
        yield "", node.attr
    elif isinstance(owner, ast.Attribute) and isinstance(owner.value, ast.Name) and owner.value.id == "trt":
        yield owner.attr, node.attr
    elif name in OBJECTS and node.attr not in OURS.get(name, set()):
        yield OBJECTS[name], node.attr


def found() -> dict[str, set[tuple[str, str]]]:
    return {path.name: set(uses(ast.parse(path.read_text(encoding="utf-8")))) for path in SOURCES}


NOT_OF_TENSORRT = {("", "__version__")}


@pytest.mark.parametrize("version", MEMBERS)
def test_every_member_we_name_is_there(version: str) -> None:
    known = MEMBERS[version]
    missing = {
        f"{file}: {owner}.{member}"
        for file, members in found().items()
        for owner, member in members - NOT_OF_TENSORRT
        if member not in known.get(owner, ())
    }
    assert missing == set()


def test_the_walk_sees_what_is_named() -> None:
    """A test that found nothing would pass."""
    seen = set().union(*found().values())
    assert {
        ("", "Builder"),
        ("", "OnnxParser"),
        ("BuilderFlag", "TF32"),
        ("MemoryPoolType", "WORKSPACE"),
        ("Builder", "build_serialized_network"),
        ("IBuilderConfig", "set_timing_cache"),
        ("ITimingCache", "combine"),
        ("INetworkDefinition", "num_layers"),
        ("ParserError", "node_operator"),
        ("Runtime", "deserialize_cuda_engine"),
    } <= seen


def test_a_member_that_went_away_is_noticed_unless_it_is_guarded() -> None:
    bad = "def f(trt, config):\n    config.set_flag(trt.BuilderFlag.FP16)\n"
    assert ("BuilderFlag", "FP16") in set(uses(ast.parse(bad)))
    assert "FP16" in MEMBERS["10.3.0"]["BuilderFlag"]
    assert all("FP16" not in MEMBERS[version]["BuilderFlag"] for version in ("11.0.0", "11.4.0", "rtx-1.7.1"))
    guarded = (
        "def f(runtime):\n    if hasattr(runtime, 'get_engine_validity'):\n        runtime.get_engine_validity()\n"
    )
    assert ("Runtime", "get_engine_validity") not in set(uses(ast.parse(guarded)))


def test_no_precision_flag_and_no_version_is_compared() -> None:
    """Precision is in the graph; a version is only compared with the one that the manifest says."""
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        for word in (
            "FP16",
            "BF16",
            "INT8",
            "FP8",
            "OBEY_PRECISION",
            "PREFER_PRECISION",
            "set_output_type",
            "precision_is",
        ):
            assert f".{word}" not in text, path.name
        assert "__version__ <" not in text, path.name
        assert "__version__ >" not in text, path.name


def test_the_record_is_what_the_installed_rtx_has() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    if not trt.__version__.startswith("1.7.1"):
        pytest.skip(f"tensorrt_rtx {trt.__version__} is another one than recorded")
    for owner, members in MEMBERS["rtx-1.7.1"].items():
        real = trt
        for part in filter(None, owner.split(".")):
            real = getattr(real, part)
        assert [member for member in members if not hasattr(real, member)] == [], owner
