# ruff: noqa: E402 (it runs as a script: the path to its helpers comes first)
"""Mutates .nir files and exports each mutant: what comes out is one line and exit code 2, or something valid.

To what it is exported is drawn too (`ways`): most to ONNX, whose bundle then validates.

    python tests/fuzz/run.py --count 3000 --seed 1 [--json numbers.json] [--keep folder]

Each mutant has a process of its own, forked when everything is imported, with limits on time and memory: a crash of
the HDF5 library is a finding like any other. Whatever ends in another way is printed, `--only INDEX` under the same
seed makes it again, and `--keep` keeps its files. Exit code 1 where there is a finding. Needs fork: no Windows.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests" / "helpers"), str(ROOT / "tests" / "fuzz")]

# Everything is imported before the forks.
import numpy as np
import onnxruntime  # noqa: F401
from mutations import MUTATIONS, change_dialect
from seeds import Seed, seeds
from ways import PLAIN, WAYS, Way, drawn_way

from stdl_export.cli import command as export
from stdl_export.common import console
from stdl_runtimes.cli import command as validate

COMMANDS = {"export": export, "validate": validate}

SECONDS = 20  # of computing: how busy the machine is says nothing about a mutant
PATIENCE = 300  # seconds that may pass, for what waits without computing
BYTES = 6 << 30  # address space: libraries map some, and a wrong size asks for more at once
REFUSED, VALID = "refused", "valid"


@dataclass(frozen=True)
class Outcome:
    """How a mutant ended: `refused`, `valid`, or what must not be; `text` is its last line."""

    index: int
    seed: str
    mutation: str
    way: str
    end: str
    text: str
    seconds: float


def main() -> int:
    """Run the mutants, then print numbers by mutation and every finding."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="Begin no mutant after so long.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="Run this mutant alone.")
    parser.add_argument("--way", choices=["onnx", *WAYS], help="Export all of them this way. Default: drawn.")
    parser.add_argument("--own", action="store_true", help="Start from our own graphs only, not from ../shared.")
    parser.add_argument("--json", type=Path, help="Write the numbers here.")
    parser.add_argument("--keep", type=Path, help="Copy the files of findings here.")
    arguments = parser.parse_args()
    outcomes, end = [], time.monotonic() + 60 * arguments.minutes
    with tempfile.TemporaryDirectory() as folder:
        sources = seeds(Path(folder) / "seeds", own=arguments.own)
        for index in range(arguments.count) if arguments.only is None else [arguments.only]:
            if time.monotonic() > end:
                break
            work = Path(folder) / "mutant"
            work.mkdir()
            outcome = run(index, arguments.seed, sources, work, arguments.way)
            outcomes.append(outcome)
            if outcome.end not in (REFUSED, VALID):
                print(f"FOUND {outcome}", flush=True)
                if arguments.keep:
                    shutil.copytree(work, arguments.keep / str(index), dirs_exist_ok=True)
            shutil.rmtree(work)
    return report(outcomes, arguments.json)


def run(index: int, seed: int, sources: list[Seed], work: Path, fixed: str | None) -> Outcome:
    """One mutant, in a process of its own."""
    name, way = drawn_way(np.random.default_rng([seed, index, 1]))
    if fixed is not None:
        name, way = fixed, WAYS.get(fixed, PLAIN)
    rng = np.random.default_rng([seed, index])
    source = sources[rng.integers(len(sources))]
    names = [*MUTATIONS, *(["change_dialect"] if source.dialect else [])]
    mutation = names[rng.integers(len(names))]
    begun = time.monotonic()
    child = os.fork()
    if not child:
        leave_verdict(work, lambda: _verdict(source, mutation, way, rng, work))
    end = wait(child, begun + PATIENCE)
    result = work / "result"
    text = result.read_text(encoding="utf-8", errors="replace") if result.is_file() else ""
    if end == "":
        end, _, text = text.partition("\n")
    elif (work / "mutating").exists():
        end = f"{end} (while mutating)"
    return Outcome(index, source.name, mutation, name, end or "no result", text, time.monotonic() - begun)


def wait(child: int, until: float) -> str:
    """Empty where the child ended by itself; else how it was ended."""
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            if not os.WIFSIGNALED(status):
                return ""
            name = signal.Signals(os.WTERMSIG(status)).name
            return f"more than {SECONDS} s" if name == "SIGXCPU" else f"killed by {name}"
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return f"more than {PATIENCE} s"


def leave_verdict(work: Path, verdict: Callable[[], str]) -> NoReturn:
    """What a mutant's process does: with limits, what `verdict` says goes into `work/result`."""
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))
    try:
        said = verdict()
    except BaseException:  # whatever leaves a command is a finding
        said = f"traceback\n{traceback.format_exc()}"
    (work / "result").write_text(said, encoding="utf-8", errors="replace")
    os._exit(0)


def _verdict(source: Seed, mutation: str, way: Way, rng: np.random.Generator, work: Path) -> str:
    """Mutate, export, validate."""
    graph, dialect = work / "graph.nir", work / "case.json"
    shutil.copy(source.graph, graph)
    args = [str(graph), *way.args(work)]
    if source.dialect:
        shutil.copy(source.dialect, dialect)
    (work / "mutating").touch()
    if mutation == "change_dialect":
        change_dialect(dialect, rng)
    else:
        MUTATIONS[mutation](graph, rng)
    (work / "mutating").unlink()
    if source.dialect and rng.integers(8):
        args += ["--dialect", str(dialect)]
    if rng.integers(4) and "--timesteps" not in args:
        args += ["--timesteps", str(rng.integers(1, 7))]
    (work / "args").write_text("\n".join(args), encoding="utf-8")

    def command(name: str, args: list[str]) -> tuple[int, list[str]]:
        return call(COMMANDS[name], args, work / f"{name}.log")

    code, said = command("export", args)
    if code == 2:
        if len(said) != 1 or not said[0].startswith("error: "):
            return f"{len(said)} lines\n" + "\n".join(said)
        left = [path.name for path in work.iterdir() if "bundle" in path.name]
        return f"left behind {left}\n{said[0]}" if left else f"{REFUSED}\n{said[0]}"
    if code:
        return f"export exit {code}\n" + "\n".join(said)
    return way.judge(work if way.out is None else work / way.out, command) or f"{VALID}\n"


def call(command: object, args: list[str], log: Path) -> tuple[int, list[str]]:
    """Exit code and the lines on stderr, those that C libraries write included; stdout goes into the same file."""
    with log.open("w+", encoding="utf-8", errors="replace") as file, log.with_suffix(".out").open("w") as out:
        os.dup2(file.fileno(), 2)
        with contextlib.redirect_stderr(file), contextlib.redirect_stdout(out):
            code = console.run(command, args)  # type: ignore[arg-type]
    return code, log.read_text(encoding="utf-8", errors="replace").splitlines()


def report(outcomes: list[Outcome], path: Path | None) -> int:
    """Numbers by mutation and by way; 1 where anything was found."""
    tables = {by: _ends(outcomes, by) for by in ("mutation", "way")}
    for ends in tables.values():
        for name, counts in sorted(ends.items()):
            print(f"{name:16}", *(f"{end} {counts[end]:5}" for end in (REFUSED, VALID, "found")))
    found = [outcome for outcome in outcomes if outcome.end not in (REFUSED, VALID)]
    slowest = max(outcome.seconds for outcome in outcomes)
    print(f"{len(outcomes)} mutants, {len(found)} findings, the slowest took {slowest:.1f} s")
    if path:
        content = {"mutants": len(outcomes)} | {f"by_{by}": ends for by, ends in tables.items()}
        path.write_text(json.dumps(content | {"found": [asdict(each) for each in found]}, indent=1), encoding="utf-8")
    return 1 if found else 0


def _ends(outcomes: list[Outcome], by: str) -> dict[str, collections.Counter[str]]:
    ends: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for outcome in outcomes:
        ends[getattr(outcome, by)][outcome.end if outcome.end in (REFUSED, VALID) else "found"] += 1
    return ends


if __name__ == "__main__":
    sys.exit(main())
