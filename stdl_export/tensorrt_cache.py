"""Engines that were built before, so that the same graph is built once on a machine.

They lie in the user's cache folder, and in no bundle: an entry is found by all that the engine depends on. Two
processes that want the same engine build it once; who comes second waits and takes it.
"""

from __future__ import annotations

import hashlib
import json
import logging

from stdl_export.common.store import Store, limit_bytes
from stdl_export.tensorrt import BuildOptions, Flavour, Profile
from stdl_export.tensorrt_build import build

log = logging.getLogger("stdl")

FORMAT = 1
"""Counts up whenever the same model and options give another engine."""
ENGINES = Store("tensorrt-engines")


def engine(flavour: Flavour, model: bytes, name: str, profile: Profile, options: BuildOptions) -> bytes:
    """The engine of an ONNX model, from the cache where it is there; errors as in `build`."""
    limit_bytes()  # what is wrong with it is said before a long build
    found = key(flavour, model, profile, options)
    if (known := ENGINES.get(found)) is not None:
        log.info("%s: the engine was built before", name)
        return known
    with ENGINES.locked(found, f"{name}: another process builds this very engine; waiting for it"):
        if (known := ENGINES.get(found)) is not None:
            return known
        made = build(flavour, model, name, profile, options)
        ENGINES.put(found, made)
    return made


def key(flavour: Flavour, model: bytes, profile: Profile, options: BuildOptions) -> str:
    """SHA-256 over the graph, what builds it and for which GPUs, and the options.

    A workspace that was not asked for depends on the memory that is free, and is no part of it.
    """
    said = {
        "format": FORMAT,
        "graph": hashlib.sha256(model).hexdigest(),
        "flavour": flavour.name,
        "version": flavour.version,
        "compute_capability": flavour.compute_capability or "those of RTX engines built without a GPU",
        "gpu": flavour.gpu,
        "batch": profile.sizes,
        "options": options.model_dump(exclude={"probe"}),  # that is about which engines, not how
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
