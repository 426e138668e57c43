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
OURS = {"engine": {"batch", "close", "context", "contexts", "device_bytes", "handle", "info", "kernels", "lines"}}
RTX = "rtx-1.7.1"


def uses(source: ast.Module, version: str) -> Iterator[tuple[str, str]]:
    """(class, member) for each attribute of an object of TensorRT; those guarded in the same function are left out.

    What is named after RTX, a function or a class, is called for RTX alone.
    """
    for function in _functions(source, version):
        guards = {
            call.args[1].value
            for call in ast.walk(function)
            if isinstance(call, ast.Call)
            and isinstance(call.func, ast.Name)
            and call.func.id in ("hasattr", "getattr")
            and isinstance(call.args[1], ast.Constant)
        }
        for node in ast.walk(function):
            if isinstance(node, ast.Attribute):
                yield from (use for use in _use(node) if not guards & {*use, node.attr})


def _functions(source: ast.Module, version: str) -> Iterator[ast.FunctionDef]:
    classes = [node for node in source.body if isinstance(node, ast.ClassDef)]
    for part in (*source.body, *(node for each in classes for node in each.body)):
        owner = next((each.name for each in classes if part in each.body), "")
        if isinstance(part, ast.FunctionDef) and (version == RTX or "rtx" not in f"{owner} {part.name}".lower()):
            yield part


def _use(node: ast.Attribute) -> Iterator[tuple[str, str]]:
    owner = node.value
    name = owner.id if isinstance(owner, ast.Name) else owner.attr if isinstance(owner, ast.Attribute) else ""
    if name == "trt":
        yield "", node.attr
    elif isinstance(owner, ast.Attribute) and isinstance(owner.value, ast.Name) and owner.value.id == "trt":
        yield owner.attr, node.attr
    elif name in OBJECTS and node.attr not in OURS.get(name, set()):
        yield OBJECTS[name], node.attr


def found(version: str) -> dict[str, set[tuple[str, str]]]:
    return {path.name: set(uses(ast.parse(path.read_text(encoding="utf-8")), version)) for path in SOURCES}


NOT_OF_TENSORRT = {("", "__version__")}


@pytest.mark.parametrize("version", MEMBERS)
def test_every_member_we_name_is_there(version: str) -> None:
    known = MEMBERS[version]
    missing = {
        f"{file}: {owner}.{member}"
        for file, members in found(version).items()
        for owner, member in members - NOT_OF_TENSORRT
        if member not in known.get(owner, ())
    }
    assert missing == set()


def test_the_walk_sees_what_is_named() -> None:
    """A test that found nothing would pass."""
    seen = set().union(*found(RTX).values())
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
        ("ICudaEngine", "create_execution_context"),
        ("IExecutionContext", "execute_async_v3"),
        ("IRuntimeConfig", "set_runtime_cache"),
    } <= seen


def test_a_member_that_went_away_is_noticed_unless_it_is_guarded() -> None:
    bad = "def f(trt, config):\n    config.set_flag(trt.BuilderFlag.FP16)\n"
    assert ("BuilderFlag", "FP16") in set(uses(ast.parse(bad), RTX))
    assert "FP16" in MEMBERS["10.3.0"]["BuilderFlag"]
    assert all("FP16" not in MEMBERS[version]["BuilderFlag"] for version in ("11.0.0", "11.4.0", "rtx-1.7.1"))
    guarded = (
        "def f(runtime):\n    if hasattr(runtime, 'get_engine_validity'):\n        runtime.get_engine_validity()\n"
    )
    assert ("Runtime", "get_engine_validity") not in set(uses(ast.parse(guarded), RTX))


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
    for owner, members in MEMBERS[RTX].items():
        real = trt
        for part in filter(None, owner.split(".")):
            real = getattr(real, part)
        assert [member for member in members if not hasattr(real, member)] == [], owner
