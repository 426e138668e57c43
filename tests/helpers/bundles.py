"""Bundles for tests, made through stdl_export; and bundles whose parts were made from another graph than they say."""

import copy
import hashlib
import json
from pathlib import Path

from stdl_export import bundle as bundles
from stdl_export import golden as goldens
from stdl_export.assemble import create
from stdl_export.bundle import Bundle
from stdl_export.golden_file import GOLDEN, write_golden
from stdl_export.manifest import FP32
from stdl_export.onnx import lower
from stdl_export.onnx.probe import probe
from stdl_export.source import Source
from stdl_export.targets import Job
from stdl_export.tensorrt import Profile


def make(
    path: Path,
    graph,
    x,
    *,
    targets=("onnx",),
    labels=None,
    origin="reference",
    modes=("sequence", "step"),
    arithmetic=FP32,
    **source,
):
    """A bundle of the graph with the reference's outputs for x as its golden samples."""
    job = Job(graph, modes, "auto", Profile(), **arithmetic.model_dump())
    golden = goldens.from_reference(graph, x, labels)
    bundle, _ = create(path, Source(graph, "small", **source), job, targets, golden, origin)
    return bundle


def changed(graph, node, field, change):
    """A copy of the graph in which one field of one node is another."""
    copied = copy.deepcopy(graph)
    setattr(copied.nodes[node], field, change(getattr(copied.nodes[node], field)))
    return copied


def replace_onnx(bundle: Bundle, graph, files=("model.onnx", "model.probe.onnx", "model.step.onnx")) -> Bundle:
    """The bundle with ONNX graphs lowered from another graph, as a wrong exporter would have made them."""
    makers = {"model.onnx": lower.sequence, "model.probe.onnx": probe, "model.step.onnx": lower.step}
    for file in files:
        lower.write(makers[file](graph), bundle.path / file)
    return rehash(bundle, files)


def replace_golden(bundle: Bundle, golden) -> Bundle:
    """The bundle with other golden samples."""
    write_golden(golden, bundle.path / GOLDEN)
    return rehash(bundle, [GOLDEN])


def rehash(bundle: Bundle, files, **fields) -> Bundle:
    """The bundle opened again, with a manifest that says the hashes of changed files, and other `fields`."""
    manifest = json.loads((bundle.path / bundles.MANIFEST).read_text())
    for file in files:
        manifest["files"][file] = hashlib.sha256((bundle.path / file).read_bytes()).hexdigest()
    (bundle.path / bundles.MANIFEST).write_text(json.dumps(manifest | fields))
    return bundles.load(bundle.path)
