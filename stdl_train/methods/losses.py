"""The loss of some time steps: cross-entropy of each step's logits, or of their running mean."""

from __future__ import annotations

from torch import Tensor, nn

from stdl_train.methods.base import MethodOptions


class StepLoss:
    """Losses of consecutive chunks of one sequence; holds the sum of the logits so far, [B, classes], detached.

    labels: [B], or shares of the classes [B, classes].
    """

    def __init__(self, options: MethodOptions, labels: Tensor, T: int) -> None:
        self.options, self.labels, self.T = options, labels, T
        self.steps, self.sum = 0, labels.new_zeros(()).float()

    def __call__(self, logits: Tensor) -> Tensor:
        """Sum over the chunk's steps of the loss / T, mean over the batch. logits: [c, B, classes].

        On the running mean, no gradient reaches earlier steps' logits: mean[t] = (sum of those + logits[t]) / t.
        """
        logits, c = logits.float(), len(logits)
        past = self.sum + logits.detach().cumsum(0)
        judged = logits
        if self.options.loss_on == "mean":
            count = logits.new_tensor(range(self.steps + 1, self.steps + c + 1)).view(-1, 1, 1)
            judged = (past - logits.detach() + logits) / count
        self.steps, self.sum = self.steps + c, past[-1]
        smoothing = self.options.label_smoothing
        judged = judged * self.options.logit_scale if self.options.logit_scale != 1 else judged
        loss = nn.functional.cross_entropy(judged.flatten(0, 1), for_steps(self.labels, c), label_smoothing=smoothing)
        return loss * (c / self.T)


def for_steps(labels: Tensor, steps: int) -> Tensor:
    """Labels [B] or shares [B, classes] for so many steps, [steps * B, ...]."""
    return labels.repeat(steps, *(1,) * (labels.dim() - 1))
