"""Test accuracy and time of every method: same network, data, seeds and epochs, all in one run, by `stdl-train`.

CIFAR-10 is read from Parquet files in --cifar10 (left out by name where there are none); digits come with the package.
No method is tuned. Accuracies are those of the merged network, batch normalisation estimated again; spread is the
standard deviation over seeds. Time of a step is relative to BPTT with the same seed.

    python benchmarks/training_accuracy.py --cifar10 FOLDER [--images 10000] [--epochs 8] [--seeds 0,1,2] [--jobs 2]
                                           [--resume]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from common import environment, keep, kept, report

METHODS: dict[str, dict[str, Any]] = {
    "bptt": {},
    "online": {},
    "stdl": {"train.memory_budget": "1TiB", "train.time_chunk": 4},
    "stdl, 2 copies": {"train.most_copies": 2},
    "auglocal": {"train.most_copies": 2},
    "local": {},
}
"""What is compared, with what differs from the recipe; K is the same for all that split.

`bptt-checkpoint` is left out: its gradients are BPTT's bit for bit, which a test holds. `stdl` has as many copies as a
budget without a limit gives (four), and one time chunk.
"""

EVERY_UNIT: dict[str, dict[str, Any]] = {
    "stdl, every unit": {"train.subnetworks": 6, "train.most_copies": 2},
    "local, every unit": {"train.subnetworks": 6},
}
"""One subnetwork a unit, where credit assignment is hardest; only for `networks:vgg6s`."""


def main() -> None:
    """Every setting, method and seed, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", type=Path, help="folder of Parquet files")
    parser.add_argument("--images", type=int, default=10_000, help="CIFAR-10 images to train on")
    parser.add_argument("--test-images", type=int, default=4_000)
    parser.add_argument("--epochs", type=int, default=8, help="on CIFAR-10")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--resume", action="store_true", help="go on behind what a stopped run has measured")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time, one thread each")
    arguments = parser.parse_args()
    settings = {"digits, 400 images": digits("networks:vgg6s", 400, 30), "digits, all images": digits("vgg5", None, 10)}
    if arguments.cifar10:
        name = f"cifar10, {arguments.images} images"
        settings[name] = cifar10(arguments.cifar10, arguments.images, arguments.test_images, arguments.epochs)
    else:
        print("cifar10 left out: no --cifar10 FOLDER")
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    # seed by seed, methods next to each other: what disturbs the machine disturbs all of them
    jobs = [(setting, seed, method) for setting in settings for seed in seeds for method in methods(settings[setting])]
    results = kept("training_accuracy", arguments.resume)
    done = {(r["setting"], r["seed"], r["method"]) for r in results}
    lock = threading.Lock()

    def work(job: tuple[str, int, str]) -> None:
        found = run(*job, settings[job[0]])
        with lock:
            results.append(found)
            keep("training_accuracy", results)

    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(work, [job for job in jobs if job not in done]))
    told = {name: {key: value for key, value in keys.items() if key != "data.path"} for name, keys in settings.items()}
    data = {"environment": environment("torch"), "settings": told, "jobs": arguments.jobs, "results": results}
    columns = ("data, method", "test accuracy, mean", "lowest", "spread", "minus BPTT", "as trained")
    report("training_accuracy", f"{len(seeds)} seeds, T=4", columns, rows(results), data)


def methods(keys: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The methods that a setting compares."""
    return METHODS | EVERY_UNIT if keys["model.network"] == "networks:vgg6s" else METHODS


def digits(network: str, limit: int | None, epochs: int) -> dict[str, Any]:
    """Recipe keys for the handwritten digits."""
    keys = {"data.name": "digits", "data.shift": 1, "model.network": network, "train.epochs": epochs}
    return keys | {"train.subnetworks": 3} | ({"data.train_limit": limit} if limit else {})


def cifar10(folder: Path, images: int, test: int, epochs: int) -> dict[str, Any]:
    """Recipe keys for CIFAR-10 and eight thin convolutions."""
    return {
        "data.name": "cifar10", "data.path": str(folder.resolve()), "data.train_limit": images,
        "data.test_limit": test, "data.flip": True, "data.shift": 2, "model.network": "networks:vgg8s",
        "train.epochs": epochs, "train.subnetworks": 4,
    }  # fmt: skip


def run(setting: str, seed: int, method: str, keys: dict[str, Any]) -> dict[str, Any]:
    """One `stdl-train`, from a recipe of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        recipe, out = Path(scratch) / "benchmark.toml", Path(scratch) / "run"
        recipe.write_text('[model]\nnetwork = "vgg5"\nT = 4\n[data]\nname = "digits"\n', encoding="utf-8")
        command = [sys.executable, "-c", "from stdl_train.cli import entry; entry()", str(recipe), "--out", str(out)]
        command += ["--method", method.split(",")[0], "--seed", str(seed), "--device", "cpu"]
        for key, value in (keys | methods(keys)[method]).items():
            command += ["--set", f"{key}={json.dumps(value)}"]
        paths = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
        threads = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
        done = subprocess.run(command, capture_output=True, text=True, env=threads, check=False)
        found = re.search(r"merged network: ([\d.]+)%", done.stdout)
        if not found:
            raise SystemExit(f"{setting}, {method}, seed {seed}: {done.stderr or done.stdout}")
        epochs = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    accuracy, trained = float(found[1]), 100 * epochs[-1]["test_accuracy"]
    seconds = statistics.median(epoch["seconds"] for epoch in epochs)
    print(
        f"{setting}, {method}, seed {seed}: {accuracy:.2f} % ({trained:.2f} % as trained), {seconds:.2f} s an epoch",
        flush=True,
    )
    return {"setting": setting, "method": method, "seed": seed, "accuracy": accuracy, "as_trained": trained,
            "epoch_seconds": seconds}  # fmt: skip


def rows(results: list[dict[str, Any]]) -> list[list[str]]:
    """One row for each setting and method."""
    table = []
    for setting in dict.fromkeys(result["setting"] for result in results):
        here = [result for result in results if result["setting"] == setting]
        base = statistics.mean(result["accuracy"] for result in here if result["method"] == "bptt")
        for method in dict.fromkeys(result["method"] for result in here):
            ours = [result for result in here if result["method"] == method]
            accuracies = [result["accuracy"] for result in ours]
            mean = statistics.mean(accuracies)
            spread = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
            trained = statistics.mean(result["as_trained"] for result in ours)
            table.append([
                f"{setting}, {method}", f"{mean:.2f} %", f"{min(accuracies):.2f} %", f"{spread:.2f}",
                f"{mean - base:+.2f}", f"{trained:.2f} %",
            ])  # fmt: skip
    return table


if __name__ == "__main__":
    main()
