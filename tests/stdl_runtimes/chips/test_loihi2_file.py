"""Foreign netx files as a runtime and by command; the recorded arrays of Lava's own model, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from netx_networks import network

import stdl_runtimes
from stdl_export.chips import netx_write
from stdl_export.chips.netx import ReaderOptions
from stdl_export.common.console import run
from stdl_export.common.errors import BadInput, Unavailable
from stdl_runtimes.chips import loihi2, loihi2_file

CASES = Path(__file__).parents[3].parent / "shared" / "netx-cases"
FOLDERS = sorted(CASES.glob("*/")) or [None]


@pytest.mark.parametrize("case", FOLDERS, ids=lambda case: case.name if case else "none")
def test_every_recorded_array_of_lava_comes_out_bit_for_bit(case: Path | None, tmp_path: Path) -> None:
    if case is None:
        pytest.skip("shared/netx-cases is not here")
    about = json.loads((case / "case.json").read_text())
    out, more = tmp_path / "out.npz", []
    for name, value in about["options"].items():
        more += [f"--{name.replace('_', '-')}", str(value)]
    assert run(loihi2.command, [str(case / "network.net"), str(case / "input.npz"), "--out", str(out), *more]) == 0
    with np.load(case / "expected.npz") as expected, np.load(out) as found:
        assert sorted(found) == sorted(expected)
        assert found["layer0_spikes"].shape[-1] == about["steps"]
        for name in expected:
            assert found[name].dtype == expected[name].dtype
            np.testing.assert_array_equal(found[name], expected[name])
        assert [int(found[f"layer{k}_spikes"].sum()) for k in range(about["neuron_layers"])] == about[
            "spikes_per_layer"
        ]


def test_a_file_is_a_runtime(tmp_path: Path) -> None:
    made, path = network(12), tmp_path / "network.net"
    netx_write.write(made, path)
    x = np.random.default_rng(0).integers(0, 2, (5, 3, *made.input_shape)).astype(np.float32)
    with stdl_runtimes.load(path, runtime="loihi2") as runtime:
        recorded = runtime.run_recorded(x)
        np.testing.assert_array_equal(runtime.run(x), recorded.output)
        assert runtime.run(x).shape == (5, 3, *made.neurons[-1].shape)
        depth = len(made.neurons)
        for sample in range(3):
            arrays = loihi2_file.simulate(made, np.moveaxis(x[:, sample], 0, -1), None, ReaderOptions())
            for k in range(depth):
                ours = np.moveaxis(recorded.spikes[f"layer{k}"][:, sample], 0, -1)
                np.testing.assert_array_equal(ours, arrays[f"layer{k}_spikes"][..., k + 1 : k + 6])
        assert sum(int(each.sum()) for each in recorded.spikes.values()) > 0


@pytest.mark.parametrize("seed", [1, 12, 33])
def test_a_session_goes_on_from_a_state(tmp_path: Path, seed: int) -> None:
    made, path = network(seed), tmp_path / "network.net"
    netx_write.write(made, path)
    x = np.random.default_rng(0).integers(0, 2, (9, 2, *made.input_shape)).astype(np.float32)
    with stdl_runtimes.load(path, runtime="loihi2") as runtime:
        with runtime.session(2) as session:
            whole = [session.step(frame) for frame in x]
        with runtime.session(2) as session:
            for frame in x[:4]:
                session.step(frame)
            session.save_state(tmp_path / "state.safetensors")
        with runtime.session(2) as session:
            session.load_state(tmp_path / "state.safetensors")
            np.testing.assert_array_equal([session.step(frame) for frame in x[4:]], whole[4:])
            session.reset(rows=[1])
            again = session.step(x[0])
            np.testing.assert_array_equal(again[1], whole[0][1])


def test_what_cannot_be_opened_says_why_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.net").write_text("no HDF5 at all")
    np.savez(tmp_path / "input.npz", spikes=np.ones((4, 4)))
    out = str(tmp_path / "out.npz")
    assert run(loihi2.command, [str(tmp_path / "text.net"), str(tmp_path / "input.npz"), "--out", out]) == 2
    assert "as every .net file is" in capsys.readouterr().err
    netx_write.write(network(3), tmp_path / "network.net")
    assert run(loihi2.command, [str(tmp_path / "network.net"), str(tmp_path / "input.npz"), "--out", out]) == 2
    error = capsys.readouterr().err
    assert "a sample has shape (4,)" in error
    assert error.count("\n") == 1
    assert not Path(out).exists()
    with pytest.raises(BadInput, match="does not exist"):
        stdl_runtimes.load(tmp_path / "none.net", runtime="loihi2")
    runtime = loihi2_file.load_file(tmp_path / "network.net", ReaderOptions(reset_interval=9))
    with pytest.raises(Unavailable, match="its own clock"):
        runtime.session(1)


def test_the_default_length_lets_delays_run_out() -> None:
    made = network(12)
    longest = [int(layer.delay.max()) for layer in made.neurons if getattr(layer, "delay", None) is not None]
    assert sum(longest) > 0
    arrays = loihi2_file.simulate(made, np.ones((*made.input_shape, 4)), None, ReaderOptions())
    assert arrays["layer0_v"].shape[-1] == 4 + len(made.neurons) + sum(longest) + 2


def test_graded_inputs_are_whole_numbers(tmp_path: Path) -> None:
    made = network(3)
    x = np.full((*made.input_shape, 4), 1.5)
    loihi2_file.simulate(made, x, None, ReaderOptions())
    with pytest.raises(BadInput, match="fractions"):
        loihi2_file.simulate(made, x, None, ReaderOptions(input_message_bits=4))
    with pytest.raises(BadInput, match="NaN"):
        loihi2_file.simulate(made, x * np.nan, None, ReaderOptions())
