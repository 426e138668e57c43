"""What peers make of our files, measured: each case as it is, and as `--for PEER` writes it, read and run by the peer.

    python tests/helpers/peer_table.py          measures, and writes the table of docs/interop.md anew

STDL_PEERS_PYTHON is the Python of the environment that has the peers (default .venv-peers/bin/python; CONTRIBUTING.md
says how it is made), STDL_NORSE_MAIN a folder with norse's sources at the commit that `norse-main` names.
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

import interop_cases
import numpy as np

from stdl_export import graph as graphs
from stdl_export.common.errors import BadInput
from stdl_export.interop import peers
from stdl_export.interop.adapt import adapt
from stdl_runtimes import reference

ROOT = Path(__file__).parents[2]
DOC = ROOT / "docs" / "interop.md"
READER = Path(__file__).parent / "peer_reader.py"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
READ, PLAIN = "read", "plain"

WORDS = {
    ("same", "same"): "kept",
    ("wrong", "same"): "*wrong*, rewritten",
    ("raises", "same"): "raises, rewritten",
    ("wrong", "refused"): "*wrong*, refused",
    ("raises", "refused"): "raises, refused",
    ("same", "refused"): "kept, refused",
}


def python() -> Path:
    return Path(os.environ.get("STDL_PEERS_PYTHON", ROOT / ".venv-peers" / "bin" / "python"))


def absent(peer: str) -> str | None:
    """Why a peer cannot be asked here."""
    if not python().is_file():
        return f"no {python()}: make the environment of peers, or set STDL_PEERS_PYTHON"
    if peer == "norse-main" and not (norse_main() / "norse").is_dir():
        return "STDL_NORSE_MAIN names no folder with norse's sources"
    return None


def norse_main() -> Path:
    return Path(os.environ.get("STDL_NORSE_MAIN", ROOT / ".norse-main"))


def cases(peer: str) -> list[str]:
    """NIRTorch's neurons are the reader's; ours here know dialect nir only."""
    known = interop_cases.CASES
    return [name for name in known if peer != "nirtorch" or "stdl.dialect" not in known[name]().metadata]


@lru_cache
def measured(peer: str) -> dict[tuple[str, str], str]:
    """(READ or PLAIN, case) -> `same`, `refused`, `wrong: ...` or `raises: ...`."""
    with tempfile.TemporaryDirectory() as folder:
        found = {}
        for name in cases(peer):
            graph = interop_cases.CASES[name]()
            found[READ, name], found[PLAIN, name] = "", ""
            _prepare(Path(folder) / f"{name}.{PLAIN}", graph, graph, _plain_code(peer, graph))
            try:
                made = adapt(graph, peer)
            except BadInput:
                found[READ, name] = "refused"
            else:
                _prepare(Path(folder) / f"{name}.{READ}", graph, made.graph, made.code)
        _run(peer, Path(folder))
        return {
            (how, name): said or _verdict(Path(folder) / f"{name}.{how}", name) for (how, name), said in found.items()
        }


def _plain_code(peer: str, graph) -> list[str]:
    """The importer as everybody calls it: the first two lines."""
    dt = graphs.settings(graph).dt
    return [line.replace("{dt}", repr(dt)) for line in peers.get(peer).readings[0].code[:2]]


def _prepare(folder: Path, original, graph, code) -> None:
    folder.mkdir()
    graphs.write(graph, folder / "graph.nir")
    np.save(folder / "input.npy", interop_cases.inputs(original))
    (folder / "code.json").write_text(json.dumps(list(code)))


def _run(peer: str, folder: Path) -> None:
    # NIRTorch orders nodes by sets of names, so what is wrong at all is wrong in another way in every process.
    environment = dict(os.environ) | {"PYTHONHASHSEED": "0"}
    environment.pop("PYTHONPATH", None)
    if peer == "norse-main":
        environment["PYTHONPATH"] = str(norse_main())
    subprocess.run(
        [python(), READER, peer, folder], env=environment, capture_output=True, text=True, check=True, timeout=300
    )


def _verdict(folder: Path, name: str) -> str:
    if (folder / "error.txt").exists():
        return f"raises: {(folder / 'error.txt').read_text()[:300]}"
    graph = interop_cases.CASES[name]()
    ours, theirs = reference.run(graph, interop_cases.inputs(graph)).output, np.load(folder / "output.npy")
    if ours.shape != theirs.shape:
        return f"wrong: shape {theirs.shape} for {ours.shape}"
    if np.allclose(theirs, ours, rtol=1e-5, atol=1e-5):
        return "same"
    return f"wrong: up to {np.abs(theirs - ours).max():g} off, in {(theirs != ours).mean():.0%} of the numbers"


def row(name: str) -> list[str]:
    """The cells of a case, one a peer."""
    cells = []
    for peer in peers.PEERS:
        if name not in cases(peer):
            cells.append("-")
            continue
        found = measured(peer)
        said = tuple(found[how, name].split(":")[0] for how in (PLAIN, READ))
        cells.append(WORDS.get(said, " / ".join(said)))
    return cells


def documented() -> dict[tuple[str, str], str]:
    """(case, peer) -> the cell in docs/interop.md."""
    lines = DOC.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0].strip().splitlines()
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    names = table[0][1:]
    return {(cells[0], peer): cell for cells in table[2:] for peer, cell in zip(names, cells[1:], strict=True)}


def write() -> None:
    head = ["case", *peers.PEERS]
    lines = [f"Measured on {datetime.date.today()}.", "", f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {name} | {' | '.join(row(name))} |" for name in interop_cases.CASES]
    before, rest = DOC.read_text(encoding="utf-8").split(BEGIN)
    _, after = rest.split(END)
    text = before + BEGIN + "\n" + "\n".join(lines) + "\n" + END + after
    DOC.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write()
    for name in peers.PEERS:
        for (how, case), said in measured(name).items():
            if said not in ("same", "refused"):
                print(f"{name:13} {case:16} {how:6} {said}")
