"""What a mutant is exported to, and what makes that valid: a row in `WAYS` each. Most draws are the plain one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from stdl_export import bundle as bundles
from stdl_export import graph as graphs
from stdl_export.interop.peers import PEERS

Run = Callable[[str, list[str]], tuple[int, list[str]]]
"""A command, `export` or `validate`, with its arguments -> exit code and the lines on stderr."""


@dataclass(frozen=True)
class Way:
    """Options behind SOURCE; `out` is what they write, in the mutant's folder, None where nothing is.

    judge: of what was written, with a command to run; '' where it is valid, else what is wrong with it.
    """

    options: tuple[str, ...]
    out: str | None
    judge: Callable[[Path, Run], str]

    def args(self, work: Path) -> list[str]:
        """The options, with --out in the folder."""
        return [*self.options, *([] if self.out is None else ["--out", str(work / self.out)])]


def validates(out: Path, run: Run) -> str:
    """A bundle whose graphs give its golden outputs."""
    code, lines = run("validate", [str(out), "--require", "onnxruntime"])
    return "\n".join([f"validate exit {code}", *lines]) if code else ""


def loses(out: Path, run: Run) -> str:
    """A bundle whose weights were rounded: parity may fail, and say where; that is no fault of the export."""
    report = out.with_name("validation.json")
    code, lines = run("validate", [str(out), "--require", "onnxruntime", "--json", str(report)])
    if code == 0:
        return ""
    checks = json.loads(report.read_text(encoding="utf-8"))["checks"] if code == 1 else []
    failed = {check["name"] for check in checks if not check["passed"]}
    judged = failed and failed <= {"flips", "agreement", "outputs"}
    return "" if judged else "\n".join([f"validate exit {code}, failed: {sorted(failed)}", *lines])


def explained(out: Path, run: Run) -> str:
    """Nothing is written."""
    left = sorted(path.name for path in out.iterdir() if path.name.startswith(("bundle", "graph.svg", ".")))
    return f"explain wrote {left}" if left else ""


def drawn(out: Path, run: Run) -> str:
    """XML that a browser shows, a box for each node."""
    root = ElementTree.parse(out).getroot()
    return "" if root.tag.endswith("svg") and len(root) else "no svg"


def dotted(out: Path, run: Run) -> str:
    """A text with all brackets closed."""
    text = out.read_text(encoding="utf-8")
    return "" if text.startswith("digraph") and text.rstrip().endswith("}") else "no dot"


def read_again(out: Path, run: Run) -> str:
    """A .nir file that is a source like any other; its bundle validates."""
    problems = graphs.problems(graphs.read(out))
    if problems:
        return "\n".join(["problems", *map(str, problems)])
    again = out.with_name("again")
    code, lines = run("export", [str(out), "--target", "onnx", "--golden", "2", "--out", str(again)])
    return "\n".join([f"exported again: exit {code}", *lines]) if code else validates(again, run)


def more_parts(out: Path, run: Run) -> str:
    """A bundle that gets a part more, and is another one's source under another precision; both validate."""
    code, lines = run("export", [str(out), "--target", "svg,dot"])
    if code:
        return "\n".join([f"parts: exit {code}", *lines])
    again = out.with_name("again")
    code, lines = run("export", [str(out), "--target", "onnx", "--mode", "step", "--out", str(again)])
    if code:
        return "\n".join([f"exported again: exit {code}", *lines])
    names = set(bundles.load(again).manifest.files)
    return validates(out, run) or validates(again, run) if "model.step.onnx" in names else f"files are {names}"


ONNX = ("--target", "onnx", "--golden", "2")
PLAIN = Way(ONNX, "bundle", validates)
WAYS: dict[str, Way] = {
    "fp16": Way((*ONNX, "--precision", "fp16"), "bundle", loses),
    "fp16 states": Way((*ONNX, "--precision", "fp16", "--set", "precision.membrane=fp16"), "bundle", loses),
    "int8": Way((*ONNX, "--precision", "int8"), "bundle", loses),
    "final states": Way((*ONNX, "--final-states"), "bundle", validates),
    "scan": Way((*ONNX, "--time-form", "scan", "--timesteps", "dynamic"), "bundle", validates),
    "parts": Way(ONNX, "bundle", more_parts),
    "explain": Way(("--explain",), None, explained),
    "svg": Way(("--target", "svg"), "bundle.svg", drawn),
    "dot": Way(("--target", "dot"), "bundle.dot", dotted),
    "nir": Way(("--target", "nir"), "bundle.nir", read_again),
    **{f"for {peer}": Way(("--target", "nir", "--for", peer), "bundle.nir", read_again) for peer in PEERS},
}


def drawn_way(rng: np.random.Generator) -> tuple[str, Way]:
    """The plain way in three of five cases."""
    if rng.integers(5) < 3:
        return "onnx", PLAIN
    name = [*WAYS][rng.integers(len(WAYS))]
    return name, WAYS[name]
