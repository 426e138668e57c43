"""Many streams in one session: each gives what it would give alone."""

import threading

import bundles
import numpy as np
import pytest
from chains import exact, small_network
from several import inputs, network

import stdl_runtimes
from stdl_export.common.errors import BadInput
from stdl_runtimes import Streams

T = 8


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A bundle, and sequences [T, 5, ...]."""
    x = np.random.default_rng(3).normal(0.5, 1, (T, 5, 2, 6, 6)).astype(np.float32)
    graph, x = exact(small_network(mode="sequence", readout="li", T=T), x)
    return bundles.make(tmp_path_factory.mktemp("streams") / "b", graph, x), x


@pytest.fixture(params=["reference", "onnxruntime"])
def opened(request, made):
    pytest.importorskip("onnxruntime")
    with stdl_runtimes.load(made[0], request.param) as runtime:
        yield runtime


def test_streams_come_and_go_and_skip_frames(made, opened):
    _, x = made
    whole = opened.run(x)
    with Streams(opened, 2) as streams:
        one, two = streams.open(), streams.open()
        assert streams.rows == (one, two) == (0, 1)
        for t in range(3):
            assert np.array_equal(streams.step({two: x[t, 1]})[two], whole[t, 1])
        for t in range(5):
            found = streams.step({two: x[3 + t, 1], one: x[t, 0]})
            assert list(found) == [two, one]
            assert np.array_equal(found[one], whole[t, 0])
            assert np.array_equal(found[two], whole[3 + t, 1])
        streams.close(two)
        assert streams.rows == (one,)
        assert np.array_equal(streams.step({one: x[5, 0]})[one], whole[5, 0])
        third = streams.open()
        assert third == two
        assert np.array_equal(streams.step({third: x[0, 2]})[third], whole[0, 2])
        streams.reset(third)
        assert np.array_equal(streams.step({third: x[0, 3]})[third], whole[0, 3])
        assert np.array_equal(streams.step({one: x[6, 0]})[one], whole[6, 0])
        assert streams.step({}) == {}


def test_a_streams_state_moves_to_another(made, opened):
    _, x = made
    whole = opened.run(x)
    with Streams(opened, 3) as streams, Streams(opened, 1) as elsewhere:
        streams.open()
        row, other = streams.open(), elsewhere.open()
        for t in range(4):
            streams.step({row: x[t, 4]})
        elsewhere.put_state(other, streams.state(row))
        assert np.array_equal(elsewhere.step({other: x[4, 4]})[other], whole[4, 4])


def test_streams_are_safe_to_share_between_threads(made, opened):
    _, x = made
    whole, found, failures = opened.run(x), [None] * 5, []
    with Streams(opened, 5) as streams:

        def sensor(number):
            try:
                row = streams.open()
                found[number] = np.stack([streams.step({row: x[t, number]})[row] for t in range(T)])
                streams.close(row)
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=sensor, args=(number,)) for number in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures
    assert np.array_equal(np.stack(found, axis=1), whole)


def test_what_does_not_fit_is_refused_in_one_line(made, opened):
    frame = made[1][0, 0]
    with Streams(opened, 1) as streams:
        with pytest.raises(BadInput, match="stream 0 is not open"):
            streams.step({0: frame})
        row = streams.open()
        with pytest.raises(BadInput, match="all 1 streams are open: close one"):
            streams.open()
        with pytest.raises(BadInput, match=r"a sample of shape \(6, 6\) was given, the graph takes"):
            streams.step({row: frame[0]})
        with pytest.raises(BadInput, match="stream 7 is not open"):
            streams.close(7)
    with pytest.raises(BadInput, match="rows, not 0"):
        Streams(opened, 0)


def test_more_streams_than_a_session_takes_are_refused(opened, monkeypatch):
    monkeypatch.setattr(opened, "largest_session", 16)
    with pytest.raises(BadInput, match="has 1 to 16 rows, not 17"):
        Streams(opened, 17)


@pytest.mark.parametrize("mode", ["repeat", "sequence"])
@pytest.mark.parametrize("name", ["reference", "onnxruntime"])
def test_networks_with_several_inputs_and_outputs_stream_too(tmp_path, mode, name):
    """Frames and outputs are dictionaries, rows as always."""
    pytest.importorskip("onnxruntime")
    graph, x = network(mode, T), inputs(mode, 4, T)
    with stdl_runtimes.load(bundles.make(tmp_path / "b", graph, x), name) as runtime, Streams(runtime, 4) as streams:
        whole = runtime.run(x)
        rows = [streams.open() for _ in range(4)]
        for t in range(T):
            for some in ([3, 1], [0, 2]):
                frames = {
                    rows[n]: {key: each[n] if mode == "repeat" else each[t, n] for key, each in x.items()} for n in some
                }
                for row, output in streams.step(frames).items():
                    assert output.keys() == whole.keys()
                    for key, each in output.items():
                        np.testing.assert_allclose(each, whole[key][t, row], atol=1e-5)
        with pytest.raises(BadInput, match="there is no array for Input"):
            streams.step({rows[0]: {}})
