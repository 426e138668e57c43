"""Recordings of an event camera, played in real time into one session; what the network makes of them, live.

Each recording is a sensor: its events are counted in windows of time, and at the end of a window the frame goes into
the session that all sensors share. The terminal shows events a second, and how high each class stands so far.

    stdl-train digits-events --out run && stdl-export run --target onnx --out bundle
    python examples/stream_events.py bundle                          # the first digit of the test set
    python examples/stream_events.py bundle --recording 3,14,15      # three sensors on one device
    python examples/stream_events.py bundle --file cup.aedat4 --sensor 346x260 --window-ms 20

Files: .npz with arrays t (microseconds), x, y and p, or whatever `stdl_train.data.events.readers` knows.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.live import Live
from rich.table import Table

import stdl_runtimes
from stdl_export import bundle as bundles
from stdl_export.arrays import read_arrays
from stdl_export.bundle import Bundle
from stdl_export.common.console import run
from stdl_export.common.errors import BadInput
from stdl_runtimes import Streams
from stdl_runtimes.data import normalised
from stdl_train.data.events.events import BadRecording, Events, Sensor, in_order, make_events
from stdl_train.data.events.frames import to_frames
from stdl_train.data.events.options import EventOptions
from stdl_train.data.events.readers import SUFFIXES, Format, reader

LEVELS = " ▁▂▃▄▅▆▇█"
US = 1_000_000

Frame = npt.NDArray[np.float32]


@dataclass
class Player:
    """One recording on its way through the session: `row` of the batch, the outputs so far, and when it is done."""

    name: str
    events: Events
    sensor: Sensor
    label: str | None = None
    row: int = -1
    rate: float = 0.0  # events a second, in the last window
    outputs: list[Frame] = field(default_factory=list)

    def frames(self, window_us: int, shape: tuple[int, ...]) -> Iterator[Frame]:
        """Counts [C, H, W] of one window after the other; the last may be cut short."""
        options = EventOptions(T=1, size=shape[1:], polarity="merged" if shape[0] == 1 else "channels")
        since = self.events["t"] - self.events["t"][0]
        for start in range(0, int(since[-1]) + 1, window_us):
            part = self.events[np.searchsorted(since, start) : np.searchsorted(since, start + window_us)]
            self.rate = len(part) * US / window_us
            yield to_frames(part, self.sensor, options)[0].astype(np.float32)

    def scores(self) -> Frame:
        """The mean of the outputs so far, as the bundle's own decoding takes it of all."""
        return np.mean(self.outputs, axis=0)


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--recording", default="0", metavar="N,...", help="Of digits-events' test set: one sensor for each.")
@click.option("--file", "files", type=click.Path(path_type=Path), multiple=True, help="Instead: a file; repeatable.")
@click.option("--sensor", metavar="WxH", help="Pixels of the camera of --file. [default: what the network takes]")
@click.option("--window-ms", type=click.FloatRange(min=0.001), help="Of a frame. [default: as in training]")
@click.option("--speed", default=1.0, help="Times real time; 0: as fast as it goes.", show_default=True)
@click.option("--runtime", default="onnxruntime", show_default=True, help="Any that stdl_runtimes has.")
def command(
    bundle: Path,
    recording: str,
    files: tuple[Path, ...],
    sensor: str | None,
    window_ms: float | None,
    speed: float,
    runtime: str,
) -> int:
    """Play recordings into the network of BUNDLE."""
    opened = bundles.load(bundle)
    shape = _shape(opened)
    camera = _sensor(sensor, shape)
    players = [_from_file(file, camera) for file in files] or _simulated(recording, opened)
    window_us = round(window_ms * 1000) if window_ms else _window(opened, players)
    with (
        stdl_runtimes.load(opened, runtime) as engine,
        Streams(engine, len(players)) as streams,
        Live(console=Console(), auto_refresh=False) as live,
    ):
        late, times = play(opened, players, streams, window_us, speed, live)
    if not live.console.is_terminal:
        click.echo()  # the last table has no end of line there
    for player in players:
        was = f" (it was {player.label})" if player.label is not None else ""
        click.echo(f"{player.name}: {_classes(opened)[int(player.scores().argmax())]}{was}")
    p50, p99 = np.percentile(times, [50, 99])
    click.echo(
        f"{len(times)} steps of {len(players)} streams every {window_us / 1000:g} ms: p50 {p50:.3f} ms, "
        f"p99 {p99:.3f} ms; {late} came later than the next frame"
    )
    return 0


def play(
    bundle: Bundle, players: Sequence[Player], streams: Streams, window_us: int, speed: float, live: Live
) -> tuple[int, list[float]]:
    """All recordings at once; how many steps took longer than a window, and milliseconds of each."""
    times: list[float] = []
    late = 0
    sources = {}
    for player in players:
        player.row = streams.open()
        sources[player.row] = player, player.frames(window_us, _shape(bundle))
    begun = time.perf_counter()
    while sources:
        frames = {}
        for row, (_, source) in [*sources.items()]:
            if (frame := next(source, None)) is None:
                streams.close(sources.pop(row)[0].row)
            else:
                frames[row] = normalised(frame[None], bundle.manifest)[0]
        if not frames:
            break
        due = begun + (len(times) + 1) * window_us / US / speed if speed else 0.0  # when the window is over
        time.sleep(max(0.0, due - time.perf_counter()))
        start = time.perf_counter()
        for row, output in streams.step(frames).items():
            sources[row][0].outputs.append(output)
        times.append((time.perf_counter() - start) * 1e3)
        late += times[-1] * 1000 * speed > window_us
        live.update(_table(bundle, players, len(times) * window_us), refresh=True)
    return late, times


def _table(bundle: Bundle, players: Sequence[Player], at_us: int) -> Table:
    """What is known of each sensor by now."""
    table = Table("sensor", "events/s", *_classes(bundle), "so far", title=f"{at_us / US:.2f} s")
    for player in players:
        scores = player.scores()
        span = float(np.ptp(scores)) or 1.0
        bars = [LEVELS[round(float(each) * (len(LEVELS) - 1))] for each in (scores - scores.min()) / span]
        table.add_row(player.name, f"{player.rate:.0f}", *bars, _classes(bundle)[int(scores.argmax())])
    return table


def _shape(bundle: Bundle) -> tuple[int, ...]:
    """(C, H, W) of a frame; refuses networks that take no frames of events."""
    given = bundle.manifest.input
    if given.mode == "repeat" or given.encoding not in (None, "frames") or len(given.shape) != 3:
        raise BadInput(f"the network of '{bundle.path}' takes no frames [C, H, W] of events, one after the other")
    if given.shape[0] > 2 or len(bundle.manifest.output.tensors) != 1:
        raise BadInput(f"the network of '{bundle.path}' has more than two polarities, or several Outputs")
    return given.shape


def _classes(bundle: Bundle) -> tuple[str, ...]:
    count = int(np.prod(bundle.manifest.output.tensors[0].shape))
    return bundle.manifest.classes or tuple(map(str, range(count)))


def _sensor(text: str | None, shape: tuple[int, ...]) -> Sensor:
    if text is None:
        return Sensor(shape[2], shape[1])
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise BadInput(f"--sensor is '{text}': give its pixels, as in 346x260")
    return Sensor(int(width), int(height))


def _window(bundle: Bundle, players: Sequence[Player]) -> int:
    """That of the training; a T-th part of the longest recording where training divided each."""
    data, T = bundle.manifest.data, bundle.manifest.timesteps
    if data is not None and data.options.get("window") and data.options.get("slice", "time") == "time":
        return int(data.options["window"])
    if T is None:
        raise BadInput(f"'{bundle.path}' says neither a window nor T: give --window-ms")
    longest = max(int(player.events["t"][-1] - player.events["t"][0]) for player in players)
    return longest // T + 1


def _simulated(numbers: str, bundle: Bundle) -> list[Player]:
    """Digits before a simulated camera; the package makes them itself."""
    from stdl_train.data.events.digits_events import SENSOR, DigitsEventsOptions, recordings

    test = recordings("test", DigitsEventsOptions())
    players = []
    for word in numbers.split(","):
        if not word.strip().isdigit() or int(word) >= len(test.labels):
            raise BadInput(f"--recording has '{word}': digits-events has 0 to {len(test.labels) - 1}")
        at = int(word)
        players.append(Player(f"digit {at}", test.read(at), SENSOR, test.classes[int(test.labels[at])]))
    return players


def _from_file(path: Path, sensor: Sensor) -> Player:
    """Events of a file, in order of time."""
    read: Any = _read_npz if path.suffix == ".npz" else reader(path.suffix, Format(columns="txyp"))
    if read is None:
        raise BadInput(f"'{path}' is no recording: files end in .npz, {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise BadInput(f"'{path}' does not exist: check --file")
    try:
        return Player(path.name, in_order(read(path, sensor), sort=True), sensor)
    except BadRecording as problem:
        raise BadInput(f"'{path}': {problem}") from None


def _read_npz(path: Path, sensor: Sensor) -> Events:
    arrays = read_arrays(path)
    if missing := sorted(set("txyp") - set(arrays)):
        raise BadRecording(f"it has no array {missing[0]}: it needs t, x, y and p")
    return make_events(*(arrays[name] for name in "txyp"), sensor)


if __name__ == "__main__":
    sys.exit(run(command))
