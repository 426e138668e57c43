"""What a machine tells of itself, by files and tools that are made up: a Jetson, a server, a bare container."""

import pytest

from stdl_runtimes import machine


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty machine without tools."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()
    return tmp_path


def write(root, name, text):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def tool(root, name, script):
    write(root, f"bin/{name}", f"#!/bin/sh\n{script}\n")
    (root / "bin" / name).chmod(0o755)


def test_a_jetson(root):
    write(root, "proc/device-tree/model", "NVIDIA Jetson AGX Orin Developer Kit\0")
    write(root, "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "schedutil\n")
    write(root, "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "729600\n")
    write(root, "sys/class/devfreq/17000000.gpu/cur_freq", "306000000\n")
    write(root, "sys/class/devfreq/17000000.gpu/governor", "nvhost_podgov\n")
    write(root, "sys/class/devfreq/15340000.vic/cur_freq", "1\n")
    tool(root, "nvpmodel", "echo 'NV Power Mode: MODE_30W'; echo 2")
    found = machine.machine(root)
    assert found.processor == "NVIDIA Jetson AGX Orin Developer Kit"
    assert found.power == {
        "CPU governor": "schedutil",
        "CPU clock": "730 MHz",
        "GPU clock": "306 MHz (nvhost_podgov)",
        "power mode": "MODE_30W 2",
    }
    assert "power mode MODE_30W 2" in found.text


def test_a_server(root):
    write(root, "proc/cpuinfo", "processor : 0\nmodel name\t: A Processor @ 2 GHz\n")
    tool(root, "nvidia-smi", "echo 'H200, 570.1, 9.0, P0, 1980 MHz, 3201 MHz, 700 W'; echo 'H200, 570.1, 9.0, P8'")
    found = machine.machine(root)
    assert found.processor == "A Processor @ 2 GHz"
    assert found.power == {"GPU 0": "H200, 570.1, 9.0, P0, 1980 MHz, 3201 MHz, 700 W", "GPU 1": "H200, 570.1, 9.0, P8"}


def test_a_container_with_nothing(root):
    found = machine.machine(root)
    assert found.power == {}
    assert found.processor
    assert found.cpus >= 1


@pytest.mark.parametrize("script", ["echo 'no devices were found'; exit 6", "kill -9 $$"])
def test_a_tool_that_fails_says_nothing(root, script):
    tool(root, "nvidia-smi", script)
    assert machine.power(root) == {}
