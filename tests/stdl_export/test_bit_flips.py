"""One bit of a .nir file is another: reading and checking refuses it with one line, or takes it for a sound graph.

In a process of its own with limits on time and memory, since damage may crash or stall the HDF5 library itself.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import nir
import numpy as np
import pytest
from small_graphs import chain, full, lif

from stdl_export import graph as graphs
from stdl_export.common.errors import BadInput

SECONDS, BYTES = 60, 4 << 30
FLIPS = 120  # of some 50,000 bytes


def flip_all(path: Path, positions: list[int], notes: Path) -> None:
    """Flip a bit at each position in turn; each line of notes is a position, and behind it how that ended."""
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    with notes.open("w", encoding="utf-8") as file:
        for at in positions:
            content = bytearray(whole)
            content[at] ^= 1 << int(rng.integers(8))
            path.write_bytes(content)
            file.write(f"[{at}, ")
            file.flush()
            file.write(json.dumps(ending(path)) + "]\n")


def ending(path: Path) -> str:
    """`taken`, or what is said; anything but `BadInput` is raised."""
    try:
        graph = graphs.read(path)
        graphs.check(graph, f"'{path}'")
    except BadInput as error:
        return str(error)
    return "taken"


def held() -> int:
    """Address space of this process, what other tests have left in it included."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text(encoding="ascii").split()[0]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process of its own is forked")
def test_any_bit_of_a_file(tmp_path: Path) -> None:
    """Positions all over the file, more of them where HDF5 keeps its structure."""
    path, notes = tmp_path / "net.nir", tmp_path / "notes"
    nodes = lif(3), nir.Linear(full(0.5, 2, 3)), lif(2)
    graphs.write(chain(*nodes, shape=(3,), output=(2,), T=4), path)
    size = path.stat().st_size
    positions = sorted({*np.linspace(0, size - 1, FLIPS).astype(int).tolist(), *range(0, 1024, 32)})
    child = os.fork()
    if not child:
        import resource

        limit = held() + BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        try:
            flip_all(path, positions, notes)
        except BaseException as error:  # with the position before it, it goes to the test
            notes.open("a", encoding="utf-8").write(f"{error!r}\n")
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    lines = notes.read_text(encoding="utf-8").splitlines()
    assert status == 0, f"ended with {os.waitstatus_to_exitcode(status)} at {lines[-2:]}"
    endings = [json.loads(line)[1] for line in lines]
    assert len(endings) == len(positions)
    assert all("\n" not in end for end in endings)
    refused = [end for end in endings if end != "taken"]
    assert len(refused) > 15, "where nothing is refused, the flips reach nothing"
    assert len(set(refused)) > 3
