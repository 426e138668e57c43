"""What Loihi 2's whole numbers cost: trained here, exported, run in the bit-accurate model on all golden samples.

    python benchmarks/loihi2.py [--runs DIR] [--quick]

A network is trained where DIR has no run folder of its name yet (minutes each, one thread); then `stdl-export --target
loihi2` calibrates, writes, reads back and runs it, and what its report says is the row. The model equals the
fixed-point processes of Lava's CPU back end; no chip was there. --quick: one network, two epochs, to see that all of it
works.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from common import command, environment, report

SEW = ["--set", "model.network=sew_resnet18", "--set", "model.options={widths=[16,32,48,64]}"]

# name -> recipe, and what of it is another; "sew" has 8 blocks with skip connections, so 19 layers behind the stem
NETWORKS: dict[str, list[str]] = {
    "digits-mlp, seed 0": ["digits-mlp"],
    "digits-mlp, seed 2": ["digits-mlp", "--seed", "2"],
    "digits-vgg5": ["digits-vgg5"],
    "digits-vgg5, fine-tuned": ["digits-vgg5", "--quantize", "loihi2"],
    "digits-events": ["digits-events"],
    "SEW-ResNet-18 on digits": ["digits-vgg5", *SEW, "--set", "train.epochs=8", "--set", "train.subnetworks=4"],
}
QUICK = ["--set", "train.epochs=2", "--set", "data.train_limit=300", "--set", "data.test_limit=60"]


def main() -> None:
    """Train what is missing, export all, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, help="folder of run folders, kept for the next time")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.runs or Path(temporary)
        networks = dict([next(iter(NETWORKS.items()))]) if arguments.quick else NETWORKS
        results = [measure(name, how, folder, arguments.quick) for name, how in networks.items()]
    columns = ("network", "float", "chip's model", "same prediction", "weight error", "rate, float", "rate, chip",
               "neurons", "synapses", "spikes", "SynOps", "export s")  # fmt: skip
    rows = [row(each) for each in results]
    data = {"environment": environment("numpy", "h5py", "torch"), "quick": arguments.quick, "results": results}
    if arguments.quick:
        print(json.dumps(results, indent=1))
    else:
        report("loihi2", "Loihi 2, in the model of Lava's CPU processes", columns, rows, data)


def measure(name: str, how: list[str], folder: Path, quick: bool) -> dict[str, Any]:
    """One network: its run folder, its bundle in a temporary folder, what the report says."""
    run_folder = folder / "".join(c if c.isalnum() else "-" for c in name)
    if not run_folder.exists():
        command("stdl_train.cli", *how, *(QUICK if quick else []), "--out", str(run_folder))
    with tempfile.TemporaryDirectory() as temporary:
        bundle = Path(temporary) / "bundle"
        start = time.perf_counter()
        command("stdl_export.cli", str(run_folder), "--target", "loihi2", "--out", str(bundle))
        seconds = time.perf_counter() - start
        found = json.loads((bundle / "chips" / "loihi2" / "report.json").read_text(encoding="utf-8"))
    return {"network": name, "export_s": seconds, **found}


def row(result: dict[str, Any]) -> list[str]:
    """A line of the table."""
    loss, layers = result["loss"], [layer for layer in result["loss"]["layers"] if layer["rate_float"] is not None]
    mapped = result["mapping"]["layers"]
    return [
        result["network"],
        f"{loss['accuracy_float']:.2%}",
        f"{loss['accuracy_chip']:.2%}",
        f"{loss['agreement']:.2%}",
        f"{max(layer['weight_error'] for layer in loss['layers']):.2%}",
        f"{sum(layer['rate_float'] for layer in layers) / len(layers):.2%}",
        f"{sum(layer['rate_chip'] for layer in layers) / len(layers):.2%}",
        f"{sum(layer['neurons'] for layer in mapped):,}",
        f"{sum(layer['synapses'] for layer in mapped):,}",
        f"{loss['spikes_per_inference']:,.0f}",
        f"{loss['synops_per_inference']:,.0f}",
        f"{result['export_s']:.1f}",
    ]


if __name__ == "__main__":
    main()
