"""Accuracy on chips: recipes trained, with and without a fine-tune on the chip's weights, exported and validated by the
commands; float beside the chip's arithmetic.

What runs the chip is named in the pages of docs/chips: xylosim for Xylo, a NumPy model for Speck. No chip is involved.

    python benchmarks/chips.py [--pairs digits-rows-xylo:xylo,digits-speck:speck] [--seeds 0] [--set KEY=VALUE]...
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from common import command, environment, report

PAIRS = "digits-rows-xylo:xylo,digits-speck:speck"


def main() -> None:
    """Measure, print, and write benchmarks/results/chips.json and its table in docs/benchmarks.md."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", default=PAIRS, help="RECIPE:CHIP,...")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="Of the recipe; repeatable.")
    arguments = parser.parse_args()
    results = []
    for pair in arguments.pairs.split(","):
        recipe, chip = pair.split(":")
        for seed in arguments.seeds.split(","):
            with tempfile.TemporaryDirectory() as folder:
                for quantize in (False, True):
                    out = Path(folder) / str(quantize)
                    results.append(measured(recipe, chip, int(seed), arguments.set, quantize, out))
    columns = ("recipe, chip, seed", "samples", "float", "chip", "same prediction", "rate drift by layer")
    report(
        "chips",
        "Accuracy on chips",
        columns,
        [row(result) for result in results],
        {"environment": environment("torch", "numpy", "xylosim"), "results": results, **vars(arguments)},
    )


def measured(recipe: str, chip: str, seed: int, settings: list[str], quantize: bool, folder: Path) -> dict[str, Any]:
    """One run, from the recipe to the verdict. quantize: fine-tuned on the chip's weights, `stdl-train --quantize`."""
    run, bundle, said = folder / "run", folder / "bundle", folder / "report.json"
    words = [word for setting in settings for word in ("--set", setting)]
    words += ["--quantize", chip] * quantize
    command("stdl_train.cli", recipe, "--out", str(run), "--seed", str(seed), *words)
    command("stdl_export.cli", str(run), "--target", chip, "--out", str(bundle))
    command("stdl_runtimes.cli", str(bundle), "--runtime", chip, "--require", chip, "--json", str(said))
    lines = {line["runtime"]: line for line in json.loads(said.read_text())["runtimes"]}
    about = next(path for path in (bundle / "chips" / chip).glob("*.json") if "lost" in path.read_text())
    lost = json.loads(about.read_text())["lost"]
    return {
        "recipe": recipe, "chip": chip, "seed": seed, "fine_tuned": quantize, "float": lines["reference"]["accuracy"],
        "on_chip": lines[chip]["accuracy"], "agreement": lines[chip]["agreement"], "lost": lost,
    }  # fmt: skip


def row(result: dict[str, Any]) -> tuple[str, ...]:
    """As people read it."""
    drifts = ", ".join(f"{layer['drift']:+.2%}" for layer in result["lost"])
    name = f"{result['recipe']}, {result['chip']}, {result['seed']}" + ", fine-tuned" * result["fine_tuned"]
    return (
        name, str(result["float"]["n"]),
        *(f"{result[key]['value']:.2%}" for key in ("float", "on_chip", "agreement")), drifts,
    )  # fmt: skip


if __name__ == "__main__":
    main()
