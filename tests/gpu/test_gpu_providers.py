"""ONNX Runtime's providers on a real GPU: streams, rows, CUDA graphs. `pytest -m gpu`; skipped where one is absent."""

from __future__ import annotations

import bundles
import numpy as np
import pytest
from chains import exact, small_network

import stdl_runtimes
from stdl_export.common.errors import Unavailable
from stdl_runtimes import Streams
from stdl_runtimes.ort_options import CUDA, NV, TENSORRT

pytestmark = pytest.mark.gpu

B, T = 3, 8
CLOSE = {"rtol": 1e-3, "atol": 1e-3}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    x = np.random.default_rng(3).normal(0.5, 1, (T, B, 2, 6, 6)).astype(np.float32)
    graph, x = exact(small_network(mode="sequence", readout="li", T=T), x)
    return bundles.make(tmp_path_factory.mktemp("gpu") / "b", graph, x), x


@pytest.fixture(params=["plain", "graphs"])
def options(request):
    return {"cuda_graph": "true"} if request.param == "graphs" else {}


@pytest.fixture(params=[CUDA.runtime, TENSORRT.runtime, NV.runtime])
def opened(request, made, options):
    pytest.importorskip("onnxruntime")
    try:
        runtime = stdl_runtimes.load(made[0], request.param, options=options)
    except Unavailable as reason:
        pytest.skip(str(reason))
    with runtime:
        yield runtime


def test_steps_and_the_sequence_are_the_references(made, opened):
    bundle, x = made
    expected = stdl_runtimes.load(bundle, "reference").run(x)
    np.testing.assert_allclose(opened.run(x), expected, **CLOSE)
    try:
        session = opened.session(B)
    except Unavailable as reason:  # CUDA graphs that this version cannot keep apart
        pytest.skip(str(reason))
    with session:
        np.testing.assert_allclose(np.stack([session.step(frame) for frame in x]), expected, **CLOSE)
        session.reset()
        np.testing.assert_allclose(np.stack([session.step(frame) for frame in x]), expected, **CLOSE)


def test_rows_that_have_no_frame_keep_their_state(made, opened):
    bundle, x = made
    expected = stdl_runtimes.load(bundle, "reference").run(x)
    try:
        streams = Streams(opened, B)
    except Unavailable as reason:
        pytest.skip(str(reason))
    with streams:
        rows = [streams.open() for _ in range(B)]
        for n, row in enumerate(rows):
            for t in range(T):
                np.testing.assert_allclose(streams.step({row: x[t, n]})[row], expected[t, n], **CLOSE)
