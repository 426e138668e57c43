"""What all sessions promise, on every runtime that can run here: rows, states, files of states, refusals."""

from concurrent.futures import ThreadPoolExecutor

import bundles
import numpy as np
import pytest
from chains import exact, small_network
from safetensors.numpy import save_file
from tensorrt_bundle import Gpu

import stdl_runtimes
from stdl_export.common.errors import BadInput
from stdl_export.manifest import Arithmetic
from stdl_runtimes import base

RUNTIMES = ["reference", "onnxruntime"]
B, T = 4, 8


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A bundle and frames [T, B, ...]: hidden neurons, and a readout that integrates."""
    x = np.random.default_rng(3).normal(0.5, 1, (T, B, 2, 6, 6)).astype(np.float32)
    graph, x = exact(small_network(mode="sequence", readout="li", T=T), x)
    return bundles.make(tmp_path_factory.mktemp("session") / "b", graph, x), x


@pytest.fixture(params=[*RUNTIMES, "tensorrt"])
def opened(request, made, tmp_path_factory, monkeypatch):
    pytest.importorskip("onnxruntime")
    bundle, x = made
    if request.param == "tensorrt":  # on a fake GPU, whose engines run the same graph
        bundle = Gpu(
            tmp_path_factory.mktemp("gpu") / "b", monkeypatch, "sequence", (1, 1, 64), given=(bundle.graph(), x)
        ).bundle
    with stdl_runtimes.load(bundle, request.param) as runtime:
        runtime.bundle = bundle
        yield runtime


def stepped(session, frames):
    return np.stack([session.step(frame) for frame in frames])


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_states_are_named_alike_by_every_runtime(made, opened):
    bundle, _ = made
    with opened.session(B) as session:
        assert {name: each.shape for name, each in session.state.items()} == {
            info.input: (B, *info.shape) for info in bundle.manifest.states
        }
        assert len(session.state) == 3


def test_reset_of_some_rows_leaves_the_others(made, opened):
    _, x = made
    whole = opened.run(x)
    with opened.session(B) as session:
        stepped(session, x[:3])
        before = session.state
        session.reset([2, 0])
        after = session.state
        for name, start in session.initial.items():
            assert np.array_equal(after[name][[0, 2]], start[[0, 2]])
            assert np.array_equal(after[name][[1, 3]], before[name][[1, 3]])
        assert not same(before, after)
        found = session.step(x[3])
        assert np.array_equal(found[[1, 3]], whole[3][[1, 3]])
        assert not np.array_equal(found[[0, 2]], whole[3][[0, 2]])
        session.reset()
        assert np.array_equal(stepped(session, x), whole)


def test_a_step_of_some_rows_leaves_the_others(made, opened):
    _, x = made
    whole = opened.run(x)
    at, found = np.zeros(B, int), [[] for _ in range(B)]
    draws = np.random.default_rng(0)
    with opened.session(B) as session:
        while (at < T).any():
            rows = draws.permutation(np.flatnonzero(at < T))
            rows = rows[: draws.integers(1, len(rows) + 1)]
            before = session.state
            outputs = session.step(np.stack([x[at[row], row] for row in rows]), rows)
            others = np.setdiff1d(np.arange(B), rows)
            for name, each in session.state.items():
                assert np.array_equal(each[others], before[name][others])
            for row, output in zip(rows, outputs, strict=True):
                found[row].append(output)
            at[rows] += 1
    assert np.array_equal(np.stack(found, axis=1), whole)


def test_a_session_goes_on_from_a_state_that_was_read(made, opened):
    _, x = made
    whole = opened.run(x)
    with opened.session(B) as session, opened.session(B) as other, opened.session(2) as two:
        stepped(session, x[:4])
        kept = session.state
        rest = stepped(session, x[4:])
        assert not same(kept, session.state), "a state that was read does not change with the session"
        assert np.array_equal(rest, whole[4:])
        other.state = kept
        assert np.array_equal(stepped(other, x[4:]), rest)
        two.write_state({name: each[[3, 1]] for name, each in kept.items()})
        assert np.array_equal(stepped(two, x[4:, [3, 1]]), rest[:, [3, 1]])
        session.write_state({name: each[[1]] for name, each in kept.items()}, rows=[2])
        assert np.array_equal(session.read_state([2])["state.li.v"], kept["state.li.v"][[1]])
        kept["state.li.v"][:] = 99
        assert not (other.state["state.li.v"] == 99).any(), "nor does the session with it"


def test_states_that_were_given_stay_the_callers(made, opened):
    _, x = made
    with opened.session(B) as session:
        session.step(x[0])
        begin = session.state
    kept = {name: each.copy() for name, each in begin.items()}
    with opened.session(B, begin) as session, opened.session(B) as other:
        other.state = begin
        for each in (session, other):
            each.reset([1])
            each.step(x[1])
            each.write_state({name: np.ones_like(part[[0]]) for name, part in begin.items()}, [0])
        assert same(begin, kept)
        session.reset()
        assert np.array_equal(session.step(x[0]), opened.run(x)[0]), "what all sessions begin with does not change"


def test_a_file_of_states_goes_on_exactly_in_another_runtime(made, opened, tmp_path):
    bundle, x = made
    with opened.session(B) as session:
        stepped(session, x[:4])
        session.save_state(tmp_path / "s.safetensors")
        session.save_state(tmp_path / "two.safetensors", rows=[3, 1])
        rest = stepped(session, x[4:])
    for name in RUNTIMES:
        with stdl_runtimes.load(bundle, name) as runtime, runtime.session(B) as session:
            session.load_state(tmp_path / "s.safetensors")
            np.testing.assert_allclose(stepped(session, x[4:]), rest, atol=1e-5)
            session.load_state(tmp_path / "two.safetensors", rows=[0, 2])
            again = stepped(session, x[4:, [3, 0, 1, 2]])
            np.testing.assert_allclose(again[:, [0, 2]], rest[:, [3, 1]], atol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.safetensors", "two.safetensors"]


def test_a_file_that_is_none_is_refused_and_nothing_changes(made, opened, tmp_path):
    good, marked = tmp_path / "good", {"format": "stdl session states 1"}
    with opened.session(B) as session:
        session.step(made[1][0])
        session.save_state(good)
        before = session.state
        fewer, doubles = dict(before), {name: each.astype(np.float64) for name, each in before.items()}
        fewer.pop("state.li.v")
        files = {
            "there is no such file": None,
            "not a whole safetensors file": good.read_bytes()[:-7],
            "safetensors file ": b"\x80\x04no pickle either",
            "not written by save_state": (before, None),
            "there is no state 'state.li.v'": (fewer, marked),
            "unknown state": (before | {"state.lj.v": before["state.li.v"]}, marked),
            "is float64, the network stores float32": (doubles, marked),
            "bytes, more than the states of this network": b"\0" * (2 << 20),
            "of 4 rows": ({name: each[:2] for name, each in before.items()}, marked),
        }
        for number, (message, content) in enumerate(files.items()):
            path = tmp_path / f"{number}.safetensors"
            if isinstance(content, bytes):
                path.write_bytes(content)
            elif content is not None:
                save_file(content[0], path, content[1])
            with pytest.raises(BadInput, match=message) as error:
                session.load_state(path)
            assert str(path) in str(error.value)
            assert "\n" not in str(error.value)
        assert same(session.state, before)


def test_a_damaged_file_is_refused_or_read_but_nothing_else(made, tmp_path):
    """Bytes changed, cut or put in, most of them in the header."""
    draws, refused, path = np.random.default_rng(0), [], tmp_path / "s"
    with stdl_runtimes.load(made[0], "reference") as runtime, runtime.session(B) as session:
        session.step(made[1][0])
        session.save_state(path)
        good = path.read_bytes()
        header = 8 + int.from_bytes(good[:8], "little")
        for _ in range(400):
            mutant, at = bytearray(good), int(draws.integers(header + 64))
            match draws.integers(3):
                case 0:
                    mutant[at] = draws.integers(256)
                case 1:
                    del mutant[at : at + int(draws.integers(1, 40))]
                case 2:
                    mutant[at:at] = draws.bytes(int(draws.integers(1, 40)))
            path.write_bytes(mutant)
            before = session.state
            try:
                session.load_state(path)
            except BadInput as error:
                refused.append((str(error), same(session.state, before)))
    assert len(refused) > 300
    assert all("\n" not in text and unchanged for text, unchanged in refused)


def test_no_file_is_left_where_it_cannot_be_written(made, opened, tmp_path):
    with opened.session(1) as session, pytest.raises(BadInput, match="is a folder: name a file in it"):
        session.save_state(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([4], "the session has rows 0 to 3, not 4 to 4"),
        ([-1], "the session has rows 0 to 3, not -1 to -1"),
        ([1, 1], r"a row is named twice in \[1, 1\]"),
        ([0.5], "rows are whole numbers"),
        ([[1, 2]], "rows are whole numbers"),
    ],
)
def test_rows_are_checked(made, opened, rows, message):
    with opened.session(B) as session:
        before = session.step(made[1][0])
        with pytest.raises(BadInput, match=message):
            session.reset(rows)
        with pytest.raises(BadInput, match=message):
            session.step(np.zeros((1, 2, 6, 6), np.float32), rows)
        session.reset()
        assert np.array_equal(session.step(made[1][0]), before)


def test_no_rows_are_none(made, opened):
    with opened.session(B) as session:
        session.step(made[1][0])
        before = session.state
        session.reset([])
        assert session.step(np.zeros((0, 2, 6, 6), np.float32), []).shape == (0, 3)
        assert same(session.state, before)


def test_threads_may_run_one_runtime_and_step_sessions_of_their_own(made, opened):
    _, x = made
    assert opened.threads
    whole = opened.run(x)
    with stdl_runtimes.load(opened.bundle, opened.name) as fresh, ThreadPoolExecutor(6) as pool:  # no graph is open yet

        def sensor(number):
            if number % 2:
                return fresh.run(x)
            with fresh.session(B) as session:
                return stepped(session, x)

        for found in pool.map(sensor, range(24)):
            assert np.array_equal(found, whole)


def test_half_precision_states_are_stored_as_such(tmp_path):
    pytest.importorskip("onnxruntime")
    x = np.random.default_rng(3).normal(0.5, 1, (T, B, 2, 6, 6)).astype(np.float32)
    graph = small_network(mode="sequence", readout="li", T=T)
    half = bundles.make(tmp_path / "h", graph, x, arithmetic=Arithmetic(precision="fp16", membrane="fp16"))
    with stdl_runtimes.load(half) as runtime, runtime.session(B) as session:
        stepped(session, x[:3])
        assert {each.dtype for each in session.state.values()} == {np.dtype(np.float16)}
        session.save_state(tmp_path / "s")
        rest = stepped(session, x[3:])
        session.reset([0])
        session.load_state(tmp_path / "s")
        assert np.array_equal(stepped(session, x[3:]), rest)
    with stdl_runtimes.load(half, "reference") as runtime, runtime.session(B) as session:
        session.load_state(tmp_path / "s")
        session.save_state(tmp_path / "wide")
    with (
        stdl_runtimes.load(half) as runtime,
        runtime.session(B) as session,
        pytest.raises(BadInput, match="is float32, the network stores float16"),
    ):
        session.load_state(tmp_path / "wide")


def test_a_source_is_a_bundle_or_its_folder_or_the_runtimes_own_file(made, tmp_path, monkeypatch):
    bundle, x = made
    with stdl_runtimes.load(bundle.path, "reference") as one, stdl_runtimes.load(str(bundle.path), "reference") as two:
        assert np.array_equal(one.run(x), two.run(x))
    with pytest.raises(BadInput, match="does not exist: give the folder of a bundle"):
        stdl_runtimes.load(tmp_path / "nothing", "reference")
    file = bundle.path / "model.onnx"
    with pytest.raises(BadInput, match="runtime 'reference' reads no single files"):
        stdl_runtimes.load(file, "reference")
    with pytest.raises(BadInput, match="runtime 'reference' takes no options: leave out 'threads'"):
        stdl_runtimes.load(bundle, "reference", options={"threads": "1"})
    monkeypatch.setattr("stdl_runtimes.reference.load_file", lambda path: ("opened", path), raising=False)
    assert stdl_runtimes.load(file, "reference") == ("opened", file)


def test_what_is_in_force_is_described(opened):
    assert opened.describe()["engine"].split()[0] in {"NumPy", "onnxruntime", "tensorrt_rtx"}
    assert opened.tolerances is None
    assert opened.refused == ()
    assert base.REGISTRY[opened.name]
