"""ONNX -> TensorRT engine, by the calls that 10.3 to 11.x and TensorRT-RTX have in common.

Networks are strongly typed: the graph says float32 and the engine computes float32. TF32, which TensorRT turns on by
itself, is off unless asked for. Precision is in the graph alone, so no flag that a version may lack is ever set.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

from stdl_export import tensorrt_device
from stdl_export.common.errors import BadInput, join_reasons
from stdl_export.common.files import size_text
from stdl_export.common.store import Store
from stdl_export.common.tensorrt_log import Lines, logger
from stdl_export.tensorrt import BuildOptions, Flavour, Profile
from stdl_export.tensorrt_progress import monitor, shown, stoppable

log = logging.getLogger("stdl")

MIN_WORKSPACE, MAX_WORKSPACE = 1 << 20, 1 << 30  # scratch memory while building
MANY_LAYERS = 2000  # above it a build takes minutes; unrolled loops are what gets there
TIMINGS = Store("tensorrt-timing")
LESS_MEMORY = (
    "close other programs (a Jetson: add swap), or give --set tensorrt.workspace_mib=N or --batch a smaller MAX"
)


def build(flavour: Flavour, model: bytes, name: str, profile: Profile, options: BuildOptions) -> bytes:
    """The engine of an ONNX model; `BadInput` with TensorRT's own first error where it builds none.

    name: what the model is called in messages. KeyboardInterrupt where the user stopped it.
    """
    trt, log_of_trt = flavour.module, logger(flavour.module)
    lines: Lines = log_of_trt.lines
    lines.clear()
    builder = trt.Builder(log_of_trt)
    network = builder.create_network(_strongly_typed(trt))
    parser = trt.OnnxParser(network, log_of_trt)
    if not parser.parse(model):
        raise BadInput(f"{flavour.name} {flavour.version} does not take {name}: {_parser_errors(parser)}")
    if network.num_layers > MANY_LAYERS:
        log.warning("%s has %d layers: it may build for minutes; --time-form scan is quick", name, network.num_layers)
    config = builder.create_builder_config()
    _set_tf32(trt, config, options)
    workspace = workspace_bytes(flavour, options)
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
    _add_profile(builder, network, config, profile, name)
    timings = _load_timings(flavour, config)
    engine = _run(trt, builder, network, config, name)
    if engine is None:
        raise BadInput(f"{flavour.name} {flavour.version} could not build {name}: {_reason(flavour, lines, workspace)}")
    if lines.skipped:
        log.warning("%d ways to compute %s were left out for want of memory: the engine is good", lines.skipped, name)
    _keep_timings(flavour, config, timings)
    return bytes(engine)


def workspace_bytes(flavour: Flavour, options: BuildOptions) -> int:
    """What was asked for, else a quarter of the memory that is free now, 1 GiB at most."""
    if options.workspace_mib is not None:
        return options.workspace_mib << 20
    free = tensorrt_device.free_bytes(on_gpu=flavour.name == "tensorrt")
    return MAX_WORKSPACE if free is None else max(MIN_WORKSPACE, min(MAX_WORKSPACE, free // 4))


def _run(trt: Any, builder: Any, network: Any, config: Any, name: str) -> Any:
    """The build itself; what it gives is None where it failed."""
    stopped = threading.Event()
    with shown(f"building {name}") as phases:
        watching = monitor(trt, stopped, phases)
        config.progress_monitor = watching
        return stoppable(lambda: builder.build_serialized_network(network, config), stopped)


def _set_tf32(trt: Any, config: Any, options: BuildOptions) -> None:
    if options.tf32:
        config.set_flag(trt.BuilderFlag.TF32)
    else:
        config.clear_flag(trt.BuilderFlag.TF32)


def _add_profile(builder: Any, network: Any, config: Any, profile: Profile, name: str) -> None:
    """Every open size is the batch: T is fixed, and so is each sample's shape.

    TensorRT says nothing of a profile that fits no input until the build fails, so it is checked here.
    """
    made = builder.create_optimization_profile()
    for tensor in (network.get_input(i) for i in range(network.num_inputs)):
        shape = tuple(tensor.shape)
        if sum(size < 0 for size in shape) > 1:
            raise BadInput(
                f"{name}: input '{tensor.name}' {_text(shape)} has more open sizes than the batch: "
                "an engine has a fixed T and fixed samples; give --timesteps N"
            )
        made.set_shape(tensor.name, *(tuple(batch if size < 0 else size for size in shape) for batch in profile.sizes))
    if config.add_optimization_profile(made) < 0:
        raise BadInput(
            f"{name}: TensorRT takes no batch of {':'.join(map(str, profile.sizes))}: choose another --batch"
        )


def _text(shape: tuple[int, ...]) -> str:
    return "[" + ", ".join("?" if size < 0 else str(size) for size in shape) + "]"


def _strongly_typed(trt: Any) -> int:
    """The flag that 10.x needs; later versions are always strongly typed and may drop it."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _parser_errors(parser: Any) -> str:
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    return join_reasons(f"node '{error.node_name()}' ({error.node_operator()}): {error.desc()}" for error in errors)


def _reason(flavour: Flavour, lines: Lines, workspace: int) -> str:
    cause = lines.cause or "it gave no reason"
    if not lines.short_of_memory:
        return cause
    free = tensorrt_device.free_bytes(on_gpu=flavour.name == "tensorrt")
    there = "" if free is None else f", {size_text(free)} free"
    return f"{cause}; mostly this is too little memory (workspace {size_text(workspace)}{there}): {LESS_MEMORY}"


def _timings_key(flavour: Flavour) -> str | None:
    """None for RTX: it times nothing while it builds, and its timing cache is a deprecated no-op."""
    if flavour.name != "tensorrt":
        return None
    return f"{flavour.version}-sm{flavour.compute_capability}"


def _load_timings(flavour: Flavour, config: Any) -> bytes | None:
    """What earlier builds measured on this GPU, so that they are not measured again; an unfit cache is left out."""
    key = _timings_key(flavour)
    if key is None:
        return None
    known = TIMINGS.get(key) or b""
    if not config.set_timing_cache(config.create_timing_cache(known), False):
        config.set_timing_cache(config.create_timing_cache(b""), False)
    return known


def _keep_timings(flavour: Flavour, config: Any, before: bytes | None) -> None:
    """Together with what another process has measured meanwhile."""
    key = _timings_key(flavour)
    if key is None:
        return
    with TIMINGS.locked(key, "waiting for another build's timing cache"):
        timings, now = config.get_timing_cache(), TIMINGS.get(key)
        if now is not None and now != before:
            timings.combine(config.create_timing_cache(now), False)
        if (made := bytes(timings.serialize())) != now:
            TIMINGS.put(key, made)
