"""Fold batch normalisation into the convolution or linear map in front of it.

    given    y = gamma (W x + b - mean) / sqrt(var + eps) + beta        per output channel
    result   y = W' x + b'     with s = gamma / sqrt(var + eps),  W' = s W,  b' = s (b - mean) + beta

The same function up to rounding: computed in float64, rounded to float32 once.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stdl_models.network import SpikingNetwork
from stdl_models.units.layers import Synapse


def fold(network: SpikingNetwork) -> SpikingNetwork:
    """A network without batch normalisation that computes the same in eval mode; the given one is left as it is."""
    spec = network.spec.model_copy(update={"units": tuple(_without_norm(unit) for unit in network.spec.units)})
    folded = SpikingNetwork(spec).eval()
    state = {name: value for name, value in network.state_dict().items() if ".norm." not in name}
    for name, layer in network.named_modules():
        if isinstance(layer, Synapse) and isinstance(layer.norm, nn.modules.batchnorm._BatchNorm):
            state[f"{name}.synapse.weight"], state[f"{name}.synapse.bias"] = fold_layer(layer.synapse, layer.norm)
    folded.load_state_dict(state)
    return folded


def fold_layer(synapse: nn.Module, norm: nn.modules.batchnorm._BatchNorm) -> tuple[Tensor, Tensor]:
    """W' [out, ...] and b' [out] in float32; see the module."""
    weight, bias = synapse.weight, synapse.bias
    assert isinstance(weight, Tensor)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    channels = weight.shape[0]
    gamma, beta = (1.0, 0.0) if norm.weight is None else (norm.weight.double(), norm.bias.double())
    scale = gamma / (norm.running_var.double() + norm.eps).sqrt()
    none = torch.zeros(channels, dtype=torch.float64, device=weight.device)
    before = bias.double() if isinstance(bias, Tensor) else none
    folded = weight.double() * scale.view(channels, *(1,) * (weight.dim() - 1))
    return folded.float().detach(), (scale * (before - norm.running_mean.double()) + beta).float().detach()


def _without_norm(unit: object) -> object:
    return unit.model_copy(update={"norm": False, "bias": True}) if getattr(unit, "norm", False) else unit  # type: ignore[attr-defined]
