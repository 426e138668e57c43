"""What `stdl-export` starts from: a run folder of stdl-train, a .nir file of any framework, or a bundle."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import nir

from stdl_export import bundle as bundles
from stdl_export import graph as graphs
from stdl_export.bundle import Bundle
from stdl_export.common.errors import BadInput, Unavailable
from stdl_export.golden_file import GOLDEN, Golden, read_golden
from stdl_export.manifest import DataInfo, Origin

NETWORK = "network.safetensors"


@dataclass(frozen=True)
class Recorded:
    """Golden samples of a run folder or a bundle, who computed them, and the settings they were computed under."""

    golden: Golden
    origin: Origin
    settings: graphs.Settings


@dataclass(frozen=True)
class Source:
    """A graph and what is known about it. `bundle` is set where it came from one.

    Of a .nir file only the metadata is checked: what else is right depends on the dialect and dt that it is to have.
    """

    graph: nir.NIRGraph
    name: str
    recorded: Recorded | None = None
    classes: tuple[str, ...] | None = None
    data: DataInfo | None = None
    encoding: str | None = None
    encoding_options: dict[str, Any] = field(default_factory=dict)
    encoding_seed: int = 0
    prediction: graphs.NodeName | None = None
    bundle: Bundle | None = None


def read(path: Path) -> Source:
    """Open a source by what it is; `BadInput` for anything that is none of the three."""
    if not path.exists():
        raise BadInput(f"'{path}' does not exist: SOURCE is a run folder, a .nir file or a bundle")
    if path.is_dir():
        for file, opener in ((NETWORK, _read_run), (bundles.MANIFEST, _read_bundle)):
            if (path / file).is_file():
                return opener(path)
        raise BadInput(f"'{path}' is neither a run folder (no {NETWORK}) nor a bundle (no {bundles.MANIFEST})")
    if path.suffix != ".nir" and not h5py.is_hdf5(path):
        raise BadInput(f"'{path}' is not a NIR graph: SOURCE is a run folder, a .nir file or a bundle")
    return _read_nir(path)


def _read_nir(path: Path) -> Source:
    graph = graphs.read(path)
    graphs.check_metadata(graph, f"'{path}'")
    return Source(graph, path.stem)


def _read_bundle(path: Path) -> Source:
    bundle = bundles.load(path)
    graph, manifest = bundle.graph(), bundle.manifest
    recorded = Recorded(bundle.golden(), manifest.golden.origin, graphs.settings(graph))
    given = manifest.input
    return Source(
        graph, manifest.network, recorded, manifest.classes, manifest.data,
        given.encoding, given.encoding_options, given.encoding_seed, manifest.output.prediction, bundle,
    )  # fmt: skip


def _read_run(path: Path) -> Source:
    try:
        from stdl_export.from_torch import read_run
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "safetensors"):
            raise
        raise Unavailable(
            f"'{path}' is a run folder, and reading it needs {error.name}: pip install 'stdl-toolchain[train]'"
        ) from None
    trained = read_run(path)
    graphs.check(trained.graph, f"'{path / NETWORK}'")
    golden = read_golden(path / GOLDEN)
    data = None
    if trained.data_name is not None:
        data = DataInfo(name=trained.data_name, options=trained.data_options, mean=trained.mean, std=trained.std)
    recorded = Recorded(golden, "trained", graphs.settings(trained.graph))
    return Source(
        trained.graph, trained.name, recorded, trained.classes or None, data,
        trained.encoding, trained.encoding_options, trained.encoding_seed,
    )  # fmt: skip
