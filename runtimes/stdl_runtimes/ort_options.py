"""ONNX Runtime's execution providers, each a runtime of its own, and the options that a user may set.

A provider is asked for by name and is there or is not: ONNX Runtime itself would go on with the CPU.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stdl_export.common.errors import BadInput
from stdl_export.common.store import cache_root

TF32_OVERRIDE = "NVIDIA_TF32_OVERRIDE"  # in the environment, "0": TensorRT and cuDNN leave TF32 alone

OPTIONS = "threads=N, cuda_graph=true on a GPU, session.<key> of its session, and the provider's own by their names"


@dataclass(frozen=True)
class Provider:
    """An execution provider. `memory`: what OrtValues call that of its device, None: the host's.

    defaults: of its own options. graph: the one that turns CUDA graphs on. cached: where it keeps what it builds, as
    an option and a folder's name. plugin: the module of the package that it comes in, where it is no part of ONNX
    Runtime. install: what to do where it is missing.
    """

    runtime: str
    name: str
    install: str
    memory: str | None = None
    defaults: Mapping[str, str] = field(default_factory=dict)
    graph: str | None = None
    cached: str | None = None
    plugin: str | None = None

    def own(self) -> dict[str, str]:
        """Its options before the user's. What a provider builds is kept in the user's cache, never in a bundle."""
        folder = {self.cached: str(cache_folder() / self.runtime)} if self.cached else {}
        return {**self.defaults, **folder}


# TF32 rounds products to 10 bits: what is called fp32 here is fp32. The TensorRT providers have no option for it.
CPU = Provider("onnxruntime", "CPUExecutionProvider", "pip install 'stdl-toolchain[onnxruntime]'")
CUDA = Provider(
    "onnxruntime-cuda", "CUDAExecutionProvider", "install the extra 'gpu' instead of 'onnxruntime'",
    memory="cuda", defaults={"use_tf32": "0"}, graph="enable_cuda_graph",
)  # fmt: skip
TENSORRT = Provider(
    "onnxruntime-tensorrt", "TensorrtExecutionProvider", "install the extra 'gpu' instead of 'onnxruntime'",
    memory="cuda", graph="trt_cuda_graph_enable", cached="trt_engine_cache_path",
    defaults={"trt_engine_cache_enable": "1"},
)  # fmt: skip
NV = Provider(
    "onnxruntime-nv", "NvTensorRTRTXExecutionProvider", "pip install onnxruntime-ep-nv-tensorrt-rtx",
    memory="cuda", graph="enable_cuda_graph", cached="nv_runtime_cache_path",
    plugin="onnxruntime_ep_nv_tensorrt_rtx",
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """What is set, by the user or by default. threads: of one operator; None: one for each core.

    config: entries of the session; own: options of the provider.
    """

    threads: int | None = None
    cuda_graph: bool = False
    config: Mapping[str, str] = field(default_factory=dict)
    own: Mapping[str, str] = field(default_factory=dict)

    def described(self) -> dict[str, str]:
        """For reports."""
        said = {"threads": "one a core" if self.threads is None else str(self.threads)}
        if self.cuda_graph:
            said["cuda_graph"] = "on, for single steps"
        return said | {f"session.{key}": value for key, value in self.config.items()}


def settings(provider: Provider, options: Mapping[str, str]) -> Settings:
    """The user's options by name; BadInput where one is not for this provider, or its value is none.

    What is no option of ours is the provider's; that of the CPU has none, and ONNX Runtime says what others refuse.
    """
    made = Settings(own=provider.own())
    for name, value in options.items():
        if name == "threads":
            made = dataclasses.replace(made, threads=_threads(value))
        elif name == "cuda_graph":
            made = dataclasses.replace(made, cuda_graph=_switch(provider, value))
        elif name.startswith("session."):
            made = dataclasses.replace(made, config={**made.config, name.removeprefix("session."): value})
        elif provider.memory is None:
            raise BadInput(f"runtime '{provider.runtime}' has no option '{name}': it takes {OPTIONS}")
        else:
            made = dataclasses.replace(made, own={**made.own, name: value})
    return made


def may_round(provider: Provider, said: Settings) -> bool:
    """May the provider take TF32 for float32?"""
    if provider.memory is None or os.environ.get(TF32_OVERRIDE) == "0":
        return False
    return said.own.get("use_tf32") != "0"


def cache_folder() -> Path:
    """Where providers keep the engines that they build."""
    return cache_root()


def _threads(value: str) -> int:
    if not value.isascii() or not value.isdigit() or not 1 <= int(value) <= 1024:
        raise BadInput(f"threads is '{value}': give a whole number from 1 to 1024")
    return int(value)


def _switch(provider: Provider, value: str) -> bool:
    if value not in ("true", "false"):
        raise BadInput(f"cuda_graph is '{value}': give true or false")
    if value == "true" and provider.graph is None:
        raise BadInput(f"runtime '{provider.runtime}' has no CUDA graphs: leave out cuda_graph, or take one on a GPU")
    return value == "true"
