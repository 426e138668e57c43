"""The example plays recordings into a session: what it shows is what the network gives for their frames."""

import importlib.util
import re
import sys
import time
from pathlib import Path

import bundles
import numpy as np
import pytest
from chains import small_network
from event_files import some_events, write_aedat4

import stdl_runtimes
from stdl_export.common.console import run
from stdl_export.manifest import DataInfo
from stdl_train.data.events.events import Sensor
from stdl_train.data.events.frames import to_frames
from stdl_train.data.events.options import EventOptions

FILE = Path(__file__).parents[1] / "examples" / "stream_events.py"
T, WINDOW = 5, 60_000
MEAN, STD = np.float32([0.5, 0.25]), np.float32([0.5, 2.0])


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("stream_events", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["stream_events"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["stream_events"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    pytest.importorskip("onnxruntime")
    x = np.random.default_rng(0).integers(0, 4, (T, 3, 2, 6, 6)).astype(np.float32)
    info = DataInfo(name="events", mean=tuple(map(float, MEAN)), std=tuple(map(float, STD)))
    return bundles.make(
        tmp_path_factory.mktemp("stream") / "b", small_network(mode="sequence", readout="li", T=T), x,
        data=info, classes=("cup", "dog", "owl"), encoding="frames",
    )  # fmt: skip


def expected(bundle, events, sensor, windows):
    """The class of the mean output over the frames, computed at once."""
    options = EventOptions(T=windows, window=WINDOW, size=(6, 6))
    frames = to_frames(events, sensor, options).astype(np.float32)
    x = ((frames - MEAN[:, None, None]) / STD[:, None, None])[:, None]
    with stdl_runtimes.load(bundle, "reference") as runtime, runtime.session(1) as session:
        return np.stack([session.step(frame)[0] for frame in x])


def test_files_are_played_side_by_side(example, bundle, tmp_path, capsys):
    one, two = some_events(400, 1, 34, 34, 300_000), some_events(300, 2, 34, 34, 150_000)
    np.savez(tmp_path / "two.npz", **{name: two[name] for name in "txyp"})
    np.savez(tmp_path / "one.npz", **{name: one[name] for name in "txyp"})
    sensor = ["--sensor", "34x34", "--window-ms", str(WINDOW / 1000), "--speed", "0"]
    files = ["--file", str(tmp_path / "one.npz"), "--file", str(tmp_path / "two.npz")]
    assert run(example.command, [str(bundle.path), *files, *sensor]) == 0
    said = capsys.readouterr().out
    for name, events, windows in (("one", one, 5), ("two", two, 3)):
        best = expected(bundle, events, Sensor(34, 34), windows).mean(axis=0).argmax()
        assert f"{name}.npz: {('cup', 'dog', 'owl')[best]}\n" in said
    assert "5 steps of 2 streams every 60 ms" in said


def test_outputs_are_the_networks(example, bundle, monkeypatch):
    events, sensor = some_events(400, 1, 34, 34, 300_000), Sensor(34, 34)
    player = example.Player("p", events, sensor)
    live = type("Live", (), {"update": lambda self, table, refresh: None})()
    with stdl_runtimes.load(bundle) as runtime, stdl_runtimes.Streams(runtime, 1) as streams:
        example.play(bundle, [player], streams, WINDOW, 0, live)
        assert streams.rows == (), "a sensor that ends gives its row back"
    found = np.stack(player.outputs)
    np.testing.assert_allclose(found, expected(bundle, events, sensor, 5), atol=1e-5)
    assert np.ptp(found) > 0.01
    assert player.rate > 0


def test_time_is_real(example, bundle, tmp_path, capsys):
    """A step comes when its window is over: 0.3 s of events take 0.3 s, and no less."""
    events = some_events(200, 1, 34, 34, 300_000)
    np.savez(tmp_path / "one.npz", **{name: events[name] for name in "txyp"})
    begun = time.perf_counter()
    sensor = ["--sensor", "34x34", "--window-ms", "60"]
    assert run(example.command, [str(bundle.path), "--file", str(tmp_path / "one.npz"), *sensor]) == 0
    assert time.perf_counter() - begun > 0.3
    assert re.search(r"p50 \d+\.\d+ ms, p99 \d+\.\d+ ms; \d+ came later", capsys.readouterr().out)


def test_digits_before_a_simulated_camera(example, bundle, capsys):
    """The network takes 6x6 pixels: the sensor of 16x16 is divided down; the window is a fifth of the recording."""
    assert run(example.command, [str(bundle.path), "--recording", "3,14", "--speed", "0"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"digit 3: (cup|dog|owl) \(it was \d\)", said)
    assert "5 steps of 2 streams every" in said


def test_an_aedat_file(example, bundle, tmp_path, capsys):
    pytest.importorskip("aedat")
    write_aedat4(tmp_path / "e.aedat4", some_events(200, 1, 34, 34, 300_000), size=(34, 34))
    arguments = ["--file", str(tmp_path / "e.aedat4"), "--sensor", "34x34", "--speed", "0"]
    assert run(example.command, [str(bundle.path), *arguments]) == 0
    assert "e.aedat4: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recording", "99999"], "--recording has '99999': digits-events has 0 to 358"),
        (["--file", "none.npz"], "'none.npz' does not exist: check --file"),
        (["--file", "none.txt"], "'none.txt' is no recording: files end in .npz, .aedat"),
        (["--sensor", "big", "--file", "x.npz"], "--sensor is 'big': give its pixels"),
        (["--runtime", "onnx-runtime"], "unknown runtime 'onnx-runtime': did you mean 'onnxruntime'"),
    ],
)
def test_bad_input_is_one_line(example, bundle, capsys, arguments, message):
    assert run(example.command, [str(bundle.path), *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_a_network_that_takes_no_recordings_is_refused(example, tmp_path, capsys):
    made = bundles.make(tmp_path / "b", small_network(), np.zeros((1, 2, 6, 6), np.float32))
    assert run(example.command, [str(made.path)]) == 2
    assert "takes no frames [C, H, W] of events" in capsys.readouterr().err
