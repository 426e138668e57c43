"""Time of the Triton neuron kernels against the PyTorch form on one GPU, forward and backward, in pairs.

    python benchmarks/gpu/neuron_kernels.py [--repeats 50]

Both run in turns on the same tensors; the ratio is the median over pairs. Prints a table and writes
benchmarks/results/neuron_kernels.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))
import common

from stdl_models import fused
from stdl_models.neurons import Neuron, NeuronSpec

SHAPES = ((4, 64, 64, 32, 32), (16, 64, 64, 32, 32), (4, 32, 256, 56, 56), (4, 256, 512))
"""[T, B, ...]."""


def without_kernels(neuron: Neuron) -> Neuron:
    """The same layer in its PyTorch form."""
    neuron.uses_kernels = lambda current: False  # type: ignore[method-assign]
    return neuron


def milliseconds(run: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> float:
    """Forward and backward once, timed on the device."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    x.grad = None
    begin.record()  # type: ignore[no-untyped-call]
    output = run(x)
    output.backward(torch.ones_like(output))  # type: ignore[no-untyped-call]
    end.record()  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end))  # type: ignore[no-untyped-call]


def compare(shape: tuple[int, ...], dtype: torch.dtype, through_time: bool, repeats: int) -> dict[str, float | str]:
    """Median times of both forms, and the median ratio of pairs."""
    forms = [Neuron(NeuronSpec(), 1e-3, shape[2:]).cuda() for _ in range(2)]
    without_kernels(forms[1])
    x = torch.randn(shape, device="cuda", dtype=dtype, requires_grad=True)

    def run_of(neuron: Neuron) -> Callable[[torch.Tensor], torch.Tensor]:
        return neuron.sequence if through_time else lambda x: fused.steps(x, None, neuron, None)[0]

    runs = [run_of(neuron) for neuron in forms]
    for _ in range(5):  # compilation, caches
        for run in runs:
            milliseconds(run, x)
    pairs = [[milliseconds(run, x) for run in runs] for _ in range(repeats)]
    kernel, plain = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b in pairs)
    return {
        "shape": str(list(shape)), "dtype": str(dtype).removeprefix("torch."),
        "gradient": "through time" if through_time else "within steps",
        "kernel_ms": kernel, "pytorch_ms": plain, "ratio": ratio,
    }  # fmt: skip


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--repeats", type=int, default=50, help="pairs per row")
    repeats = parser.parse_args().repeats
    if not torch.cuda.is_available():
        print("neuron_kernels: PyTorch finds no CUDA device here; run it on a machine with a GPU", file=sys.stderr)
        return 1
    if not Neuron(NeuronSpec(), 1e-3, (1,)).uses_kernels(torch.zeros(1, device="cuda")):
        print("neuron_kernels: the kernels are off; install triton and unset STDL_TRITON", file=sys.stderr)
        return 1
    rows = [
        compare(shape, dtype, through_time, repeats)
        for shape in SHAPES for dtype in (torch.float32, torch.bfloat16) for through_time in (True, False)
    ]  # fmt: skip
    environment = common.environment("torch", "triton") | {"gpu": torch.cuda.get_device_name()}
    table = Table(*rows[0], title=f"Neuron kernels on {environment['gpu']}, median of {repeats} pairs")
    for row in rows:
        table.add_row(*(value if isinstance(value, str) else f"{value:.3f}" for value in row.values()))
    Console(width=160).print(table)
    common.RESULTS.mkdir(exist_ok=True)
    path = common.RESULTS / "neuron_kernels.json"
    path.write_text(json.dumps({"environment": environment, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    print(f"written: {path.relative_to(common.ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
