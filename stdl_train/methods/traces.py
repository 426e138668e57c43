"""Presynaptic traces: weight gradients that remember earlier spikes, without a graph through time.

    a[t] = decay a[t-1] + x[t]        x: a layer's input, decay: the leak of the layer's neuron
    dL/dW[t] = dL/dcurrent[t] a[t]^T  where plain online learning takes x[t] instead of a[t]

What reaches earlier layers is unchanged. Source: Xiao, Meng, Zhang, He, Lin 2022, "Online training through time for
spiking neural networks" (OTTT), equation for the weight gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from stdl_models.neurons import Neuron
from stdl_models.units.base import Unit
from stdl_models.units.layers import Synapse


class Traces:
    """Hooks on every synapse in front of neurons in a module; holds one trace [B, ...] a layer while a sequence runs.

    A call of the module brings x [c, B, ...]: c is noted, so that a synapse's input [c*B, ...] can be taken apart.
    """

    def __init__(self, module: nn.Module) -> None:
        self._traces: dict[Synapse, Tensor] = {}
        self.steps = 1
        module.register_forward_pre_hook(self._note_steps)
        for unit in module.modules():
            for synapse, neuron in unit.synapses if isinstance(unit, Unit) else ():
                synapse.synapse.register_forward_hook(
                    lambda _m, args, y, of=synapse, to=neuron: self._with_trace(of, to, args[0], y)
                )

    def forget(self) -> None:
        """A new sequence begins."""
        self._traces.clear()

    def _note_steps(self, _module: nn.Module, args: tuple[Any, ...]) -> None:
        self.steps = len(args[0])

    def _with_trace(self, of: Synapse, to: Neuron, x: Tensor, y: Tensor) -> Tensor:
        """The synapse's output y [c*B, ...] with a backward that uses the trace of its input x [c*B, ...]."""
        decay = to.coefficients().decay
        rate: Tensor | float = 1.0 if decay is None else decay.detach().mean()
        trace, kept = self._traces.get(of), []
        for step in x.detach().unflatten(0, (self.steps, -1)):
            trace = step if trace is None else rate * trace + step
            kept.append(trace)
        assert trace is not None
        self._traces[of] = trace
        synapse = of.synapse
        traced: Tensor = _TracedSynapse.apply(  # type: ignore[no-untyped-call]
            y.detach(), x, torch.cat(kept), synapse.weight, synapse.bias, synapse
        )
        return traced


class _TracedSynapse(torch.autograd.Function):
    """Forward: `value`, which the synapse has computed. Backward: gradient of x as ever, of the weight with the trace.

    Neither a convolution's nor a linear map's input gradient depends on the input, so the trace takes x's place.
    """

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, x: Tensor, trace: Tensor, weight: Tensor, bias: Tensor | None, synapse: nn.Module
    ) -> Tensor:
        ctx.save_for_backward(trace, weight)
        ctx.synapse = synapse
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        trace, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad[1], ctx.needs_input_grad[3], ctx.needs_input_grad[4]
        weight, trace = weight.to(grad.dtype), trace.to(grad.dtype)
        if isinstance(ctx.synapse, nn.Linear):
            d_x, d_w = (grad @ weight if wanted[0] else None), grad.t() @ trace
            return None, d_x, None, d_w, (grad.sum(0) if wanted[2] else None), None
        conv = ctx.synapse
        sizes = None if conv.bias is None else list(conv.bias.shape)
        d_x, d_w, d_b = torch.ops.aten.convolution_backward(
            grad, trace, weight, sizes, conv.stride, conv.padding, conv.dilation, False, [0, 0], conv.groups, wanted
        )
        return None, d_x, None, d_w, d_b, None
