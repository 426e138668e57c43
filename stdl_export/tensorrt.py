"""Which TensorRT builds, and what it is told: `tensorrt` where it is installed and a GPU is there, else TensorRT-RTX.

The build itself is in `tensorrt_build`, the engines that are kept in `tensorrt_cache`.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from types import ModuleType
from typing import Annotated, Any, Literal

import pydantic

from stdl_export.common.errors import BadInput, Unavailable, one_line
from stdl_export.tensorrt_device import compute_capability, gpu_name

FlavourName = Literal["tensorrt", "tensorrt_rtx"]
INSTALL = "pip install 'stdl-toolchain[tensorrt-rtx]', or 'stdl-toolchain[gpu]' with a GPU; a Jetson has JetPack's"
MAX_UNROLL = 16  # above it the time to build an unrolled engine jumps from seconds to many minutes


@dataclass(frozen=True)
class Flavour:
    """The TensorRT that builds. compute_capability is that of the GPU here, None where engines are not tied to one.

    gpu: its model, to which an engine is tied too, or nearly so.
    """

    name: FlavourName
    version: str
    compute_capability: str | None
    module: Any
    gpu: str | None = None

    def file(self, mode: str) -> str:
        """The engine's name in a bundle: one per flavour, GPU generation and mode."""
        target = f".sm{self.compute_capability.replace('.', '')}" if self.compute_capability else ""
        return f"engine/{self.name}{target}.{mode}.engine"


@dataclass(frozen=True)
class Profile:
    """Batch sizes that an engine takes, and the one it is tuned for."""

    min: int = 1
    opt: int = 1
    max: int = 16

    @classmethod
    def parse(cls, text: str) -> Profile:
        """From `N` or `MIN:OPT:MAX`."""
        parts = text.split(":")
        if len(parts) not in (1, 3) or not all(re.fullmatch(r"[0-9]{1,6}", part) for part in parts):
            raise BadInput(f"--batch '{text}': write one number, or MIN:OPT:MAX such as 1:1:16")
        sizes = [int(part) for part in parts] * (3 // len(parts))
        if not 1 <= sizes[0] <= sizes[1] <= sizes[2]:
            raise BadInput(f"--batch '{text}': at least 1, and MIN <= OPT <= MAX, is accepted")
        return cls(*sizes)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """(min, opt, max)."""
        return self.min, self.opt, self.max


class BuildOptions(pydantic.BaseModel):
    """`--set tensorrt.KEY=VALUE`: what a build may do.

    tf32: round the factors of float32 products to 10 bits, which is faster and flips spikes. workspace_mib: scratch
    memory while building; None: a quarter of what is free, 1 GiB at most. probe: build an engine too that shows single
    layers, for `stdl-validate`; without it only outputs are compared.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    tf32: bool = False
    workspace_mib: Annotated[int, pydantic.Field(ge=1, le=1 << 20)] | None = None
    probe: bool = True


DEFAULTS = BuildOptions()


def flavour() -> Flavour:
    """The TensorRT to build with here; `Unavailable` with what to install where there is none."""
    capability = compute_capability()
    full, rtx = _import("tensorrt"), _import("tensorrt_rtx")
    if capability and isinstance(full, ModuleType):
        _check_age(full)
        return Flavour("tensorrt", full.__version__, capability, full, gpu_name())
    if isinstance(rtx, ModuleType):
        return Flavour("tensorrt_rtx", rtx.__version__, None, rtx)
    if isinstance(full, ModuleType):
        raise Unavailable(
            "tensorrt is installed, but no NVIDIA GPU is here, and it needs one to build: install tensorrt-rtx"
        )
    if broken := [reason for reason in (full, rtx) if isinstance(reason, str)]:
        raise Unavailable(f"{'; '.join(broken)}: {INSTALL}")
    raise Unavailable(f"neither tensorrt nor tensorrt_rtx is installed: {INSTALL}")


def doubts(found: Flavour) -> list[str]:
    """Why what is built may not run on the GPU that is here; empty where there is no reason, or no GPU."""
    capability = compute_capability()
    if found.name != "tensorrt_rtx" or capability is None:
        return []
    listed = getattr(found.module, "ComputeCapability", None)
    if listed is None or hasattr(listed, f"SM{capability.replace('.', '')}"):
        return []
    return [f"tensorrt_rtx {found.version} does not list this GPU (SM {capability}): install tensorrt to run here"]


def _check_age(module: ModuleType) -> None:
    """8.x has batches as a flag and no strong typing; later versions have it, and 11 no flag for batches."""
    flags = getattr(module, "NetworkDefinitionCreationFlag", None)
    if hasattr(flags, "EXPLICIT_BATCH") and not hasattr(flags, "STRONGLY_TYPED"):
        raise Unavailable(
            f"tensorrt {module.__version__} has no strongly typed networks: 10.3 or newer is needed (JetPack 6.1)"
        )


def check_time(timesteps: int | None, form: str) -> None:
    """Refuse what makes no usable engine: a dynamic T, or a long unrolled one."""
    if timesteps is None:
        raise BadInput("a TensorRT engine of the whole sequence has a fixed T: give --timesteps N, or --mode step")
    if form == "unroll" and timesteps > MAX_UNROLL:
        raise BadInput(
            f"unrolling {timesteps} steps takes TensorRT too long: up to {MAX_UNROLL}, else --time-form chunks"
        )


def _import(name: FlavourName) -> ModuleType | str | None:
    """The module; None where it is not installed, or why it does not load."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        return None if error.name == name else f"{name} does not load: {one_line(str(error))}"
    except (ImportError, OSError) as error:
        return f"{name} does not load: {one_line(str(error))}"
