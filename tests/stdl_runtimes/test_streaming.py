"""Streaming is the sequence, bit for bit: step by step, from a file of states, and with many streams interleaved."""

import bundles
import conformance
import numpy as np
import pytest
import random_graphs
from hypothesis import given, settings
from hypothesis import strategies as st

import stdl_runtimes
from stdl_export import graph as graphs
from stdl_runtimes import Streams

pytest.importorskip("onnxruntime")

STREAMS = 64


@pytest.mark.skipif(not conformance.NAMES, reason=conformance.ABSENT)
@pytest.mark.parametrize("length", ["dynamic", "fixed"])
@pytest.mark.parametrize("name", conformance.NAMES)
def test_every_conformance_case_streams_as_its_sequence(tmp_path, name, length):
    """Half-way the states go through a file into another session, whose rows are in another order."""
    case = conformance.load(name)
    x, graph = case.arrays["input"], case.graph
    if length == "fixed":
        graph = graphs.with_settings(graph, graphs.Settings(**vars(graphs.settings(graph)) | {"T": len(x)}))
    bundle = bundles.make(tmp_path / "b", graph, x)
    half, back = len(x) // 2, np.arange(x.shape[1])[::-1]
    for runtime_name in ("reference", "onnxruntime") if length == "dynamic" else ("onnxruntime",):
        with stdl_runtimes.load(bundle, runtime_name) as runtime, runtime.session(x.shape[1]) as session:
            whole = runtime.run(x)
            assert {name: each.shape[1:] for name, each in session.state.items()} == {
                info.input: info.shape for info in bundle.manifest.states
            }
            first = [session.step(frame) for frame in x[:half]]
            session.save_state(tmp_path / "states")
            with runtime.session(x.shape[1]) as other:
                other.load_state(tmp_path / "states", rows=back)
                rest = [other.step(frame[back]) for frame in x[half:]]
        assert np.array_equal(np.stack(first), whole[:half])
        assert np.array_equal(np.stack(rest), whole[half:][:, back])
    assert whole.any() or name == "norse-paper-two-lif"  # that case is silent, as its framework was


@settings(max_examples=8)
@given(graph=random_graphs.graphs(T=6), seed=st.integers(0, 1 << 16))
def test_interleaved_streams_are_each_their_sequence(tmp_path_factory, graph, seed):
    """64 streams; in each step some have a frame, some are reset, some are closed and opened, some states are saved."""
    T, draws = 6, np.random.default_rng(seed)
    repeated = graphs.settings(graph).input == "repeat"
    x = random_graphs.inputs(graph, STREAMS, T, seed)
    bundle = bundles.make(tmp_path_factory.mktemp("b") / "b", graph, x)
    with stdl_runtimes.load(bundle) as runtime, Streams(runtime, STREAMS) as streams:
        alone = [runtime.run(x[[n]] if repeated else x[:, [n]])[:, 0] for n in range(STREAMS)]
        rows = {n: streams.open() for n in range(STREAMS)}  # which row the sensor n has
        at = dict.fromkeys(rows, 0)
        saved = {}
        for _ in range(20):
            _disturb(draws, streams, rows, at, saved)
            ready = [n for n in draws.permutation(STREAMS) if at[n] < T and draws.random() < 0.7]
            outputs = streams.step({rows[n]: x[n] if repeated else x[at[n], n] for n in ready})
            for n in ready:
                assert np.array_equal(outputs[rows[n]], alone[n][at[n]])
                at[n] += 1


def _disturb(draws, streams, rows, at, saved):
    """What happens to streams between steps."""
    for n in rows:
        match draws.integers(12):
            case 0:
                streams.reset(rows[n])
                at[n] = 0
            case 1:
                streams.close(rows[n])
                rows[n] = None
            case 2:
                saved[n] = streams.state(rows[n]), at[n]
            case 3 if n in saved:
                streams.put_state(rows[n], saved[n][0])
                at[n] = saved[n][1]
    for n in draws.permutation([n for n, row in rows.items() if row is None]):
        rows[n], at[n] = streams.open(), 0
