"""Latency of a sequence of T steps: ONNX Runtime on the exported graph against PyTorch eager on the same network.

Both run the folded network on the same input, in turn, in one process and on the same number of threads; the outputs
are compared first. PyTorch eager runs twice: step by step, and layer by layer with time folded into the batch; ratios
are against the faster.

    python benchmarks/inference_latency.py [--networks vgg5,vgg11,sew_resnet18] [--batches 1,16] [--runs 30]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import environment, report

from stdl_export.fold import fold
from stdl_export.from_torch import to_nir
from stdl_export.onnx import lower
from stdl_models.nets.registry import build_network, network_spec
from stdl_models.network import InputSpec, SpikingNetwork, batchnorms
from stdl_train.merge import reestimate_batchnorm

SHAPES = {"vgg5": (1, 8, 8), "vgg11": (3, 32, 32), "sew_resnet18": (3, 32, 32)}


def main() -> None:
    """Measure every configuration, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="vgg5,vgg11,sew_resnet18")
    parser.add_argument("--batches", default="1,16")
    parser.add_argument("--runs", type=int, default=30)
    arguments = parser.parse_args()
    results = [
        measure(name, batch, arguments.runs)
        for name in arguments.networks.split(",")
        for batch in map(int, arguments.batches.split(","))
    ]
    columns = (
        "network, batch", "ONNX Runtime p50 ms", "p90", "p99", "PyTorch by step p50 ms", "PyTorch by layer p50 ms",
        "PyTorch (faster) / ONNX Runtime", "equal predictions",
    )  # fmt: skip
    rows = [
        [
            f"{r['network']}, {r['batch']}",
            *(f"{np.percentile(r['onnxruntime'], p):.2f}" for p in (50, 90, 99)),
            f"{statistics.median(r['by_step']):.2f}",
            f"{statistics.median(r['by_layer']):.2f}",
            f"{r['ratio']:.2f}",
            f"{r['agreement']:.1%}",
        ]
        for r in results
    ]
    data = {"environment": environment("torch", "onnxruntime"), "threads": torch.get_num_threads(), "results": results}
    report("inference_latency", "one sequence, T=4, float32, CPU", columns, rows, data)


def measure(name: str, batch: int, runs: int) -> dict[str, Any]:
    """Milliseconds of each run of each contender, interleaved."""
    import onnxruntime

    network, frame = spiking(name, batch)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        lower.write(lower.sequence(to_nir(network)), path)
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feed = {"input": frame.numpy()}
    repeated = frame.expand(network.spec.T, *frame.shape)
    contenders: dict[str, Callable[[], Any]] = {
        "onnxruntime": lambda: session.run(None, feed)[0],
        "by_step": lambda: network(frame).numpy(),
        "by_layer": lambda: network.sequence(repeated).numpy(),
    }
    times: dict[str, list[float]] = {contender: [] for contender in contenders}
    with torch.inference_mode():
        outputs = {contender: run().mean(0).argmax(1) for contender, run in contenders.items()}
        for _ in range(runs + 3):
            for contender, run in contenders.items():
                begun = time.perf_counter()
                run()
                times[contender].append((time.perf_counter() - begun) * 1e3)
    times = {contender: values[3:] for contender, values in times.items()}  # the first are warm-up
    fastest = min(statistics.median(times["by_step"]), statistics.median(times["by_layer"]))
    return {
        "network": name,
        "batch": batch,
        **times,
        "ratio": fastest / statistics.median(times["onnxruntime"]),
        "agreement": float((outputs["onnxruntime"] == outputs["by_step"]).mean()),
    }


def spiking(name: str, batch: int) -> tuple[SpikingNetwork, torch.Tensor]:
    """An untrained network whose normalisation is set so that every layer spikes, folded, and a batch for it."""
    torch.manual_seed(0)
    shape = SHAPES[name]
    network = build_network(network_spec(name, InputSpec(shape=shape), tuple("0123456789"), T=4))
    for norm in batchnorms(network):
        norm.bias.data.fill_(0.3)
    reestimate_batchnorm(network, [torch.randn(64, *shape)])
    return fold(network), torch.randn(batch, *shape)


if __name__ == "__main__":
    main()
