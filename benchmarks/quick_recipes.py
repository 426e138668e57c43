"""Recipes for two cores, from the data to the verdict: trained on several seeds, exported, validated in all runtimes.

All by the commands. Processor time is that of training, all threads together: a busy machine does not lengthen it much.

    python benchmarks/quick_recipes.py [--recipes digits-vgg5,digits-events,cifar10-quick] [--seeds 0,1,2]
                                       [--cifar10 FOLDER] [--resume]
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
from pathlib import Path
from typing import Any

from common import command, environment, keep, kept, report

RECIPES = "digits-vgg5,digits-events,cifar10-quick"


def main() -> None:
    """Measure, print, and write benchmarks/results/quick_recipes.json and its table in docs/benchmarks.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", default=RECIPES)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--cifar10", help="folder of CIFAR-10's Parquet files; without it its hub")
    parser.add_argument("--resume", action="store_true", help="go on behind what a stopped run has measured")
    arguments = parser.parse_args()
    results = kept("quick_recipes", arguments.resume)
    done = {(result["recipe"], result["seed"]) for result in results}
    for recipe in arguments.recipes.split(","):
        for seed in map(int, arguments.seeds.split(",")):
            if (recipe, seed) not in done:
                with tempfile.TemporaryDirectory() as folder:
                    results.append(measured(recipe, seed, arguments.cifar10, Path(folder)))
                keep("quick_recipes", results)
    columns = (
        "recipe, seed", "test accuracy", "test samples", "processor minutes", "golden samples", "same predictions",
        "spikes flipped", "runtimes",
    )  # fmt: skip
    data = {"environment": environment("torch", "onnxruntime"), "results": results}
    report("quick_recipes", "Quick recipes, end to end", columns, [row(result) for result in results], data)


def measured(recipe: str, seed: int, cifar10: str | None, folder: Path) -> dict[str, Any]:
    """One run, from the recipe to the verdict."""
    run, bundle, said = folder / "run", folder / "bundle", folder / "report.json"
    words = ["--set", f"data.path={cifar10}"] if cifar10 and recipe.startswith("cifar10") else []
    before = processor_seconds()
    printed = command("stdl_train.cli", recipe, "--out", str(run), "--seed", str(seed), *words)
    spent = processor_seconds() - before
    command("stdl_export.cli", str(run), "--target", "nir,onnx", "--out", str(bundle))
    command("stdl_runtimes.cli", str(bundle), "--json", str(said))
    (line,) = [line for line in printed.splitlines() if line.startswith("test accuracy of the merged network")]
    share, _, counted = line.partition(": ")[2].partition("% (")
    content = json.loads(said.read_text())
    lines = [line for line in content["runtimes"] if line["agreement"] is not None]
    return {
        "recipe": recipe, "seed": seed, "accuracy": float(share) / 100, "test_samples": int(counted.split()[0]),
        "processor_seconds": spent, "samples": content["samples"], "passed": content["passed"],
        "agreement": {line["runtime"]: line["agreement"]["value"] for line in lines},
        "flips": sum(line["flips"] or 0 for line in lines),
    }  # fmt: skip


def processor_seconds() -> float:
    """Of all processes that were started from here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def row(result: dict[str, Any]) -> tuple[str, ...]:
    """As people read it."""
    return (
        f"{result['recipe']}, {result['seed']}", f"{result['accuracy']:.2%}", str(result["test_samples"]),
        f"{result['processor_seconds'] / 60:.1f}", str(result["samples"]), f"{min(result['agreement'].values()):.2%}",
        str(result["flips"]), ", ".join(result["agreement"]),
    )  # fmt: skip


if __name__ == "__main__":
    main()
