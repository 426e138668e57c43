"""Where a validation ran: processor, memory, and whatever tells of clocks and power modes, for times depend on them."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

from stdl_runtimes.results import Machine

ROOT = Path("/")
CPUFREQ = "sys/devices/system/cpu/cpu0/cpufreq"
DEVFREQ = "sys/class/devfreq"  # a Jetson's GPU is one of these, by an address and a name
JETSON_GPUS = ("gpu", "ga10b", "gv11b", "gp10b")
SECONDS = 10  # for tools of the vendor to answer
GPU = "name,driver_version,compute_cap,pstate,clocks.sm,clocks.mem,power.limit"


def machine(root: Path = ROOT) -> Machine:
    """This one. What cannot be read here is left out. root: where /proc and /sys are."""
    return Machine(
        system=f"{platform.system()} {platform.machine()}",
        processor=_processor(root),
        cpus=os.cpu_count() or 1,
        memory_bytes=_memory(),
        power=power(root),
    )


def power(root: Path = ROOT) -> dict[str, str]:
    """The governor and clock of the CPU, a Jetson's power mode and GPU clock, each GPU's state and clocks."""
    found = {}
    if governor := _read(root / CPUFREQ / "scaling_governor"):
        found["CPU governor"] = governor
    if clock := _read(root / CPUFREQ / "scaling_cur_freq"):
        found["CPU clock"] = _megahertz(clock, 1e3)
    for folder in sorted((root / DEVFREQ).glob("*")):
        clock = _read(folder / "cur_freq")
        if clock and folder.name.rpartition(".")[2] in JETSON_GPUS:
            found["GPU clock"] = f"{_megahertz(clock, 1e6)} ({_read(folder / 'governor') or 'governor unknown'})"
    if lines := _said("nvpmodel", "-q"):
        found["power mode"] = " ".join(lines).removeprefix("NV Power Mode: ")
    for number, line in enumerate(_said("nvidia-smi", f"--query-gpu={GPU}", "--format=csv,noheader")):
        found[f"GPU {number}"] = line
    return found


def _megahertz(clock: str, per_mhz: float) -> str:
    return f"{int(clock) / per_mhz:.0f} MHz" if clock.isdigit() else clock


def _processor(root: Path) -> str:
    """Its name; of a board such as a Jetson the board's, since its CPUs have none."""
    if board := _read(root / "proc/device-tree/model"):
        return board.rstrip("\0")
    for line in (_read(root / "proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name" and value.strip():
            return value.strip()
    return platform.processor() or platform.machine()


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):  # not every system has these
        return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _said(tool: str, *arguments: str) -> list[str]:
    """The lines that a tool prints; none where it is absent, fails or does not answer."""
    path = shutil.which(tool)
    if path is None:
        return []
    try:
        done = subprocess.run([path, *arguments], capture_output=True, text=True, timeout=SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]
