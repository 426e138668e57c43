"""ONNX Runtime itself: opening a graph on the one provider that was asked for, and running it."""

from __future__ import annotations

import functools
import importlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from stdl_export.common.errors import BadInput, Unavailable, one_line
from stdl_runtimes.ort_options import Provider, Settings

FATAL = 4  # the only level it logs at: errors come as exceptions
RECORD = "session.record_ep_graph_assignment_info"  # of newer versions; older ones do not look at it
DRIVER = "libcuda.so"
CPU_NAME = "CPUExecutionProvider"

Feeds = Mapping[str, npt.NDArray[Any]]


def module() -> Any:
    """The package; `Unavailable` where it is not installed."""
    try:
        import onnxruntime
    except ImportError:
        raise Unavailable("onnxruntime is not installed: pip install 'stdl-toolchain[onnxruntime]'") from None
    return onnxruntime


def open_graph(path: Path, provider: Provider, said: Settings, *, captured: bool = False) -> Any:
    """An inference session that runs on the provider: `Unavailable` where it does not start, or takes no node.

    captured: with CUDA graphs, which take calls with memory bound beforehand only.
    """
    ort = module()
    options, chosen = _session_options(ort, said), dict(said.own)
    if captured and provider.graph:
        chosen[provider.graph] = "1"
    try:
        if provider.plugin:
            devices = _devices(ort, provider)
            options.add_provider_for_devices(devices, chosen)
            opened = ort.InferenceSession(str(path), options, enable_fallback=0)
        else:
            _check_known(ort, provider)
            opened = ort.InferenceSession(
                str(path), options, providers=[(provider.name, chosen)], enable_fallback=0
            )  # by itself it would print that it failed and go on with the CPU
    except errors() as error:
        if provider.memory is None:
            raise BadInput(f"onnxruntime cannot load '{path}': {_text(error)}") from None
        raise Unavailable(f"{provider.name} does not take '{path.name}': {_text(error)}") from None
    _check_used(opened, provider)
    return opened


def run(model: Any, names: list[str], feeds: Feeds) -> list[npt.NDArray[Any]]:
    """One call with arrays in and arrays out; BadInput where the graph does not take them."""
    try:
        outputs: list[npt.NDArray[Any]] = model.run(names, feeds)
    except errors() as error:
        raise refused(error) from None
    return outputs


def refused(error: Exception) -> BadInput:
    """What a failed run says."""
    return BadInput(f"onnxruntime cannot run the graph: {_text(error)}")


def nodes(model: Any) -> dict[str, int]:
    """How many nodes run on which provider, after ONNX Runtime's optimisations; empty where it does not tell."""
    if not hasattr(model, "get_provider_graph_assignment_info"):
        return {}
    parts = model.get_provider_graph_assignment_info()
    return dict(Counter(part.ep_name for part in parts for _ in part.get_nodes()))


@functools.cache
def errors() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises for a graph or an input it does not take; the classes share no base of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = (state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf, state.NotImplemented)
    return (*own, state.EPFail, state.RuntimeException, RuntimeError, ValueError)


def _session_options(ort: Any, said: Settings) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = FATAL
    if said.threads is not None:
        options.intra_op_num_threads = said.threads
    for key, value in {RECORD: "1", **said.config}.items():
        options.add_session_config_entry(key, value)
    return options


def _check_known(ort: Any, provider: Provider) -> None:
    if provider.name not in ort.get_available_providers():
        raise Unavailable(f"this onnxruntime has no {provider.name}: {provider.install}")


def _devices(ort: Any, provider: Provider) -> list[Any]:
    """Those of a provider that comes in a package of its own, which is registered once in a process."""
    try:
        plugin = importlib.import_module(str(provider.plugin))
    except (ImportError, OSError):
        raise Unavailable(f"{provider.name} is not installed: {provider.install}") from None
    if not hasattr(ort, "register_execution_provider_library"):
        raise Unavailable(f"onnxruntime {ort.__version__} takes no providers from other packages: 1.24 or newer does")
    name = plugin.get_ep_name()
    if not [device for device in ort.get_ep_devices() if device.ep_name == name]:
        try:
            ort.register_execution_provider_library(name, plugin.get_library_path())
        except errors() as error:  # without a driver its libraries do not load
            reason = "no NVIDIA driver" if DRIVER in str(error) else _text(error)
            raise Unavailable(f"{provider.name} does not start: {reason}") from None
    found = [device for device in ort.get_ep_devices() if device.ep_name == name]
    if not found:
        raise Unavailable(f"{provider.name} finds no GPU that it runs on")
    return found[:1]


def _check_used(opened: Any, provider: Provider) -> None:
    """ONNX Runtime goes on with the CPU, without an error, where a provider's libraries or a driver are missing."""
    if provider.name not in opened.get_providers():
        raise Unavailable(f"onnxruntime could not start {provider.name}: check the driver and the provider's libraries")
    placed = nodes(opened)
    if provider.memory is not None and placed and not placed.get(provider.name):
        raise Unavailable(f"{provider.name} takes none of the graph's nodes: all {placed.get(CPU_NAME)} are on the CPU")


def _text(error: Exception) -> str:
    return f"{one_line(str(error)):.200}"
