"""SpikingJelly's BPTT, counted as we count ours: one training step, with and without its memory optimisation.

Runs in an environment of its own (SpikingJelly's, with what our counter needs):

    python -m venv .venv-spikingjelly
    .venv-spikingjelly/bin/pip install torch==2.13.0 spikingjelly==2.0.0 pydantic safetensors click rich

torchvision comes along and has to be of the same build as torch (both of PyPI, or both of PyTorch's CPU index); where
2.13.0 had no such pair, the figures in docs/benchmarks.md were taken with torch 2.14.1.

`training_memory.py --spikingjelly .venv-spikingjelly/bin/python` calls it. Its levels above 1 search with a GPU's
memory and are refused by SpikingJelly on a CPU, so level 1 is what is counted: checkpoints with compressed spikes.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch
from spikingjelly.activation_based import functional, layer, memopt, neuron, surrogate
from spikingjelly.activation_based.model import sew_resnet, spiking_vgg

from stdl_train.memory import LiveBytes, SavedBytes


def build(network: str, classes: int) -> torch.nn.Module:
    """Its own form of the network, multi-step, hard reset, tau = 2."""
    options: dict[str, Any] = {"spiking_neuron": neuron.LIFNode, "surrogate_function": surrogate.ATan(), "tau": 2.0}
    options |= {"detach_reset": True, "decay_input": False, "num_classes": classes}
    if network == "vgg11":
        model = spiking_vgg.spiking_vgg11_bn(**options)
        model.avgpool = layer.AdaptiveAvgPool2d((1, 1))
        model.classifier = torch.nn.Sequential(  # ours has two hidden layers of 512 too
            layer.Linear(512, 512), neuron.LIFNode(tau=2.0), layer.Linear(512, 512), neuron.LIFNode(tau=2.0),
            layer.Linear(512, classes),
        )  # fmt: skip
    else:
        model = {"sew_resnet18": sew_resnet.sew_resnet18, "sew_resnet34": sew_resnet.sew_resnet34}[network](
            cnf="ADD", **options
        )
    if network == "sew_resnet18":  # the CIFAR form: no stride and no pool in the stem
        model.conv1, model.maxpool = layer.Conv2d(3, 64, 3, 1, 1, bias=False), torch.nn.Identity()
    functional.set_step_mode(model, "m")
    return model.train()


def measure(
    network: str, size: int, T: int, batch: int, classes: int, optimizer: str, optimise: bool
) -> dict[str, Any]:
    """Bytes of a step, everything that is alive included, as `stdl_train.memory.count_step` counts."""
    torch.manual_seed(0)
    model = build(network, classes)
    frame, labels = torch.rand(batch, 3, size, size), torch.arange(batch) % classes
    if optimise:
        kinds = (sew_resnet.BasicBlock, neuron.LIFNode) if "sew" in network else (neuron.LIFNode, layer.BatchNorm2d)
        memopt.optimize_memory(model, kinds, lambda m: m(frame.expand(T, *frame.shape)), level=1)
        functional.reset_net(model)
    weights = list(model.parameters())
    rule = torch.optim.AdamW(weights) if optimizer == "adamw" else torch.optim.SGD(weights, lr=0.01, momentum=0.9)

    def step() -> None:
        logits = model(frame.expand(T, *frame.shape))
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.repeat(T))
        loss.backward()
        del logits, loss
        rule.step()
        rule.zero_grad(set_to_none=True)
        functional.reset_net(model)

    step()
    begun = time.perf_counter()
    step()
    seconds = time.perf_counter() - begun
    known = [*weights, *model.buffers(), frame, labels]
    known += [v for state in rule.state.values() for v in state.values() if isinstance(v, torch.Tensor)]
    with SavedBytes(known) as saved, LiveBytes(known) as live:
        step()
    return {"saved": saved.peak, "live": live.peak, "seconds": seconds}


if __name__ == "__main__":
    print(json.dumps(measure(**json.loads(sys.argv[1]))))
