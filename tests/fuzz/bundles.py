# ruff: noqa: E402 (it runs as a script: the path to its helpers comes first)
"""Mutates bundles and uses each mutant: one line and exit code 2, or a verdict; and no file outside it is opened.

    python tests/fuzz/bundles.py --count 1000 --seed 1 [--json numbers.json] [--keep folder] [--only INDEX]

A mutant is validated, exported again or run through the API, in a process of its own with limits on time and memory.
Which files it opens is watched (`opened`). Whatever ends in another way is printed, `--only INDEX` under the same seed
makes it again. Exit code 1 where there is a finding. Needs fork and inotify: Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests" / "helpers"), str(ROOT / "tests" / "fuzz")]

import numpy as np
from bundle_mutations import IN_FILES, MUTATIONS, SECRET, rehash
from bundles_made import seeds
from opened import Watch
from run import PATIENCE, REFUSED, VALID, Outcome, call, leave_verdict, report, wait

from stdl_export.cli import command as export
from stdl_export.common.errors import StdlError
from stdl_runtimes import load
from stdl_runtimes.cli import command as validate

# What Python and its libraries open for themselves, and where `stdl-validate` looks up the machine it runs on.
MACHINE = ["/proc/cpuinfo", "/proc/meminfo", "/proc/device-tree", "/proc/self/statm", "/etc/nv_tegra_release", "/sys"]
SYSTEM = [sys.prefix, sys.base_prefix, str(ROOT), "/usr/lib", "/usr/share", "/dev/null", *MACHINE]


def validated(bundle: Path, work: Path) -> str:
    """`stdl-validate`: 0 and 1 are verdicts."""
    return judged(*call(validate, [str(bundle), "--runtime", "reference,onnxruntime,loihi2,speck,xylo"], work / "log"))


def exported(bundle: Path, work: Path) -> str:
    """New parts for the bundle; where they are refused, it stays as it is."""
    before = content(bundle)
    code, said = call(export, [str(bundle), "--target", "triton,svg"], work / "log")
    if code == 2 and content(bundle) != before:
        return "refused, but the bundle is another\n" + "\n".join(said)
    return judged(code, said)


def exported_anew(bundle: Path, work: Path) -> str:
    """A new bundle made of it, which is whole or not there."""
    out = work / "out" / "again"
    code, said = call(export, [str(bundle), "--target", "onnx", "--out", str(out)], work / "log")
    if code == 2 and (out.exists() or [*out.parent.glob("*")]):
        return f"left behind {[*out.parent.glob('*')]}\n" + "\n".join(said)
    return judged(code, said)


def run_by_the_api(bundle: Path, work: Path) -> str:
    """`load`, `run` and a session: errors are of our own types."""
    try:
        with load(bundle) as runtime, contextlib.redirect_stdout(io.StringIO()):
            x = {name: np.ones((2, *shape), np.float32) for name, shape in runtime.ends.inputs.items()}
            if not runtime.ends.repeated:
                x = {name: np.stack([each] * (runtime.ends.timesteps or 3)) for name, each in x.items()}
            if "sequence" in runtime.modes:
                runtime.run(x, runtime.ends.timesteps or 3)
            if "step" in runtime.modes:
                with runtime.session(2) as session:
                    session.step({name: each if runtime.ends.repeated else each[0] for name, each in x.items()})
    except StdlError as error:
        text = str(error)
        return f"{REFUSED}\n{text}" if "\n" not in text else f"several lines\n{text}"
    return f"{VALID}\n"


WAYS: dict[str, Callable[[Path, Path], str]] = {
    each.__name__: each for each in (validated, exported, exported_anew, run_by_the_api)
}


def judged(code: int, said: list[str]) -> str:
    """A verdict's first line is how it ended."""
    errors = [line for line in said if line.startswith("error: ")]
    if code == 2:
        return (
            f"{REFUSED}\n{errors[0]}"
            if len(errors) == 1 and said[-1:] == errors
            else "\n".join(["not one error", *said])
        )
    return f"{VALID}\n" if code in (0, 1) and not errors else "\n".join([f"exit {code}", *said])


def content(bundle: Path) -> dict[str, str]:
    """Every file of a folder by its hash."""
    files = [path for path in bundle.rglob("*") if path.is_file() and not path.is_symlink()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def one(index: int, seed: int, sources: list[Path], work: Path) -> Outcome:
    """One mutant, in a process of its own."""
    rng, begun = np.random.default_rng([seed, index]), time.monotonic()
    source, mutation, way = (names[rng.integers(len(names))] for names in (sources, [*MUTATIONS], [*WAYS]))
    child = os.fork()
    if not child:
        leave_verdict(work, lambda: _verdict(source, mutation, way, rng, work))
    end = wait(child, begun + PATIENCE)
    result = work / "result"
    text = result.read_text(encoding="utf-8", errors="replace") if result.is_file() else ""
    if end == "":
        end, _, text = text.partition("\n")
    return Outcome(index, source.name, mutation, way, end or "no result", text, time.monotonic() - begun)


def _verdict(source: Path, mutation: str, way: str, rng: np.random.Generator, work: Path) -> str:
    """Mutate and use."""
    home = work / "home"
    bundle = home / "net"
    shutil.copytree(source, bundle)
    (home / "outside").write_bytes((bundle / "model.onnx").read_bytes())
    (work / SECRET).write_bytes((bundle / "model.onnx").read_bytes())
    MUTATIONS[mutation](bundle, rng)
    if rng.integers(4) == 0:
        with contextlib.suppress(Exception):  # of what the first has left
            MUTATIONS[mutation](bundle, rng)
    if MUTATIONS[mutation] in IN_FILES or rng.integers(3) == 0:
        rehash(bundle)
    watch = Watch(
        [*map(Path, SYSTEM), bundle, work / "log", work / "log.out", work / "out", *beside(bundle)],
        [work / SECRET, home],
    )
    verdict = WAYS[way](bundle, work)
    ours = {str(path) for path in (bundle, *beside(bundle))}
    if strange := sorted({path for path in watch.opened() if path not in ours}):
        return f"opened {strange[:5]}\n{verdict}"
    return verdict


def beside(bundle: Path) -> list[Path]:
    """What an export has beside a bundle."""
    return [bundle.with_name(f".{bundle.name}.{end}") for end in ("lock", "adding")]


def main() -> int:
    """Use the mutants, then print numbers by mutation and every finding."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="Use this mutant alone.")
    parser.add_argument("--json", type=Path, help="Write the numbers here.")
    parser.add_argument("--keep", type=Path, help="Copy the files of findings here.")
    arguments = parser.parse_args()
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        sources = seeds(Path(folder).resolve() / "seeds")
        for index in range(arguments.count) if arguments.only is None else [arguments.only]:
            work = Path(folder).resolve() / "mutant"
            work.mkdir()
            outcomes.append(one(index, arguments.seed, sources, work))
            if outcomes[-1].end not in (REFUSED, VALID):
                print(f"FOUND {outcomes[-1]}", flush=True)
                if arguments.keep:
                    shutil.copytree(work, arguments.keep / str(index), dirs_exist_ok=True, symlinks=True)
            shutil.rmtree(work)
    return report(outcomes, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
