"""Cold start: what the first inference costs a program that just began. Measured in a fresh process.

`measure` starts a Python which opens the bundle, runs one golden sample and prints what it took.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from stdl_export.common.errors import StdlError, Unavailable, one_line
from stdl_runtimes.base import Mode
from stdl_runtimes.latency_result import ColdStart

if TYPE_CHECKING:  # what it takes to import them is measured
    from stdl_export.bundle import Bundle
    from stdl_runtimes.ends import Arrays

PROGRAM = """
import sys
sys.path[:] = [path for path in sys.path if path]  # the working folder: what lies there is not to be imported
from stdl_runtimes.cold import entry
entry()
"""
SECONDS = 300  # for the process to answer; an engine may take its time to load


def measure(bundle: str, runtime: str, mode: Mode, options: Mapping[str, str] | None = None) -> ColdStart:
    """Start it and wait; `Unavailable` with the reason where the process fails."""
    if not sys.executable:
        raise Unavailable("this Python does not know its own program")
    asked = [bundle, runtime, mode, json.dumps(dict(options or {})), str(time.time_ns())]
    try:
        command = [sys.executable, "-c", PROGRAM, *asked]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
        return ColdStart(**json.loads(done.stdout.splitlines()[-1]))
    except subprocess.TimeoutExpired:
        raise Unavailable(f"the process gave no answer in {SECONDS} s") from None
    except subprocess.CalledProcessError as error:
        lines = (error.stderr or "").strip().splitlines()
        raise Unavailable(f"the process failed: {one_line(lines[-1]) if lines else error.returncode}") from None


def main(bundle_path: str, runtime: str, mode: Mode, options: str, begun_ns: str) -> None:
    """In the fresh process. begun_ns: when it was started."""
    from stdl_export import bundle as bundles
    from stdl_runtimes import base

    imported = time.time_ns()
    x, timesteps, steps = _sample(bundles.load(Path(bundle_path)))  # which a program has from elsewhere
    held, begun = resident(), time.time_ns()
    with base.load(bundles.load(Path(bundle_path)), runtime, options=json.loads(options) or None) as network:
        loaded = time.time_ns()
        if mode == "sequence":
            network.run(x, timesteps)
        else:
            with network.session(1) as session:
                for frame in steps:
                    session.step(frame)
        done = time.time_ns()
        after = resident()
        found = ColdStart(
            import_ms=(imported - int(begun_ns)) / 1e6,
            load_ms=(loaded - begun) / 1e6,
            first_ms=(done - loaded) / 1e6,
            host_bytes=None if after is None or held is None else after - held,
            device_bytes=network.device_bytes(),
        )
    sys.stdout.write(json.dumps(vars(found)) + "\n")


def entry() -> None:
    """Of the program: errors are one line, as `measure` passes them on."""
    logging.disable()
    try:
        main(*sys.argv[1:])  # type: ignore[arg-type]
    except StdlError as error:
        sys.exit(str(error))


def _sample(bundle: Bundle) -> tuple[Arrays, int, list[Arrays]]:
    """The first golden sample by node, T, and its frames."""
    from stdl_runtimes import ends

    golden, known = bundle.golden(), ends.of_manifest(bundle.manifest)
    x = known.parts(ends.by_node(golden.input, known.inputs), 1)[0]
    return x, golden.timesteps, known.steps(x, golden.timesteps)


def resident() -> int | None:
    """Bytes of memory that this process holds now; None where the system does not tell."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * resource.getpagesize()
    except (ImportError, OSError):
        return None
