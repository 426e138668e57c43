"""What a run needs to go on: every part's weights, the optimizers' state, and how far it came.

Safetensors, never pickled.
"""

from __future__ import annotations

from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from stdl_export.common.errors import BadInput
from stdl_export.common.files import atomic_file
from stdl_models.network import tensors_sha256
from stdl_train.methods.base import Method

FORMAT = "stdl-checkpoint/1"
EPOCH = "epoch"


def save_checkpoint(method: Method, epoch: int, path: Path) -> None:
    """Write the state after `epoch` whole epochs; the file before it stays until this one is complete."""
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in _tensors(method).items()}
    tensors[EPOCH] = torch.tensor(epoch)
    header = {"format": FORMAT, "tensors_sha256": tensors_sha256(tensors)}
    with atomic_file(path) as part:
        safetensors.torch.save_file(tensors, part, metadata=header)


def load_checkpoint(method: Method, path: Path) -> int:
    """Restore `method` in place; returns how many epochs are done.

    BadInput where the file does not fit or is damaged.
    """
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            header = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise BadInput(f"--resume: there is no checkpoint '{path}': start without --resume") from None
    except safetensors.SafetensorError as error:
        raise BadInput(f"checkpoint '{path}' is damaged ({error}): start again in another --out") from None
    if header.get("format") != FORMAT or header.get("tensors_sha256") != tensors_sha256(tensors):
        raise BadInput(f"checkpoint '{path}' was edited or is not one of ours: start again in another --out")
    epoch = int(tensors.pop(EPOCH))
    _restore(method, tensors, path)
    return epoch


def _tensors(method: Method) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for index, part in enumerate(method.parts):
        tensors |= {f"part.{index}.{name}": value for name, value in part.state_dict().items()}
    for index, optimizer in enumerate(method.optimizers):
        for parameter, state in optimizer.state_dict()["state"].items():
            tensors |= {
                f"optimizer.{index}.{parameter}.{key}": value for key, value in state.items() if value is not None
            }
    return tensors


def _restore(method: Method, tensors: dict[str, Tensor], path: Path) -> None:
    def under(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

    for index, (part, optimizer) in enumerate(zip(method.parts, method.optimizers, strict=True)):
        try:
            part.load_state_dict(under(f"part.{index}."))
        except RuntimeError:
            raise BadInput(f"checkpoint '{path}' is of another network or plan: start again in another --out") from None
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in under(f"optimizer.{index}.").items():
            parameter, key = name.split(".", 1)
            state.setdefault(int(parameter), {})[key] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
