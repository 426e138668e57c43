"""One of several processes: trains one network on its share of fixed batches, by SGD, and writes the weights.

RANK=0 WORLD_SIZE=2 LOCAL_RANK=0 MASTER_ADDR=127.0.0.1 MASTER_PORT=... python share_of_batch.py METHOD JOIN OUT
"""

import sys
import warnings
from pathlib import Path

import safetensors.torch
import torch

sys.path.insert(0, str(Path(__file__).parent))
from networks import plain_spec
from training import layout_of

from stdl_models.nets.registry import build_network
from stdl_train.distributed import World, average_buffers, join_batchnorms, joined
from stdl_train.methods.base import Layout, MethodOptions, OptimizerOptions, Part
from stdl_train.methods.registry import build_method

BATCH, STEPS = 8, 3


def train(method_name: str, join: bool, world: World, pieces: int = 1) -> dict[str, torch.Tensor]:
    """Weights after some batches; `pieces`: micro-batches, what two processes are to be equal to."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    spec = plain_spec(T=3)
    network = build_network(spec).train()
    layout = layout_of(network, time_chunk=2) if method_name == "stdl" else Layout((Part(0, 4),))
    layout = Layout(layout.parts, 1.0, layout.time_chunk, pieces)
    options = MethodOptions(optimizer=OptimizerOptions(name="sgd", lr=0.1, momentum=0.5, clip=1.0))
    method = build_method(method_name, network, layout, options)
    if join:
        for part in method.parts:
            join_batchnorms(part)
    data = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        frames = torch.rand(BATCH, *spec.input.shape, generator=data) * 3
        labels = torch.randint(0, len(spec.classes), (BATCH,), generator=data)
        chosen = world.share(torch.arange(BATCH))
        method.train_batch(frames[chosen], labels[chosen])
    average_buffers(method.parts, world)
    return {f"{i}.{n}": v.clone() for i, part in enumerate(method.parts) for n, v in part.state_dict().items()}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    name, join_norms, out = sys.argv[1:]
    with joined("cpu") as this:
        weights = train(name, join_norms == "join", this)
        if this.first:
            safetensors.torch.save_file(weights, out)
