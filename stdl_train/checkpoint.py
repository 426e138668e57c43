"""What a run needs to go on: every part's weights, the optimizers' state, averages, random state, and how far it came.

Safetensors, never pickled. The checkpoint before the last one is kept as `previous.safetensors`: where the last is
damaged, it is the one to go on from.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from stdl_export.common.errors import BadInput, CheckFailed
from stdl_export.common.files import atomic_file
from stdl_models.network import tensors_sha256
from stdl_train.methods.base import Method

log = logging.getLogger("stdl")

FORMAT = "stdl-checkpoint/2"
LAST, PREVIOUS, BEST, DAMAGED = (f"{name}.safetensors" for name in ("last", "previous", "best", "damaged"))


@dataclass(frozen=True)
class Progress:
    """How far a run came: `epoch` whole epochs, and `batch` batches of the next one.

    seconds: of the epoch that is under way. best: test accuracy of `best_epoch`, the epoch with the best
    one. reference, stale: the accuracy that early stopping compares with, and epochs since it was beaten. history: one
    line of metrics.jsonl for each whole epoch.
    """

    epoch: int = 0
    batch: int = 0
    seconds: float = 0.0
    best: float = -1.0
    best_epoch: int = 0
    reference: float = -1.0
    stale: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)


def save_checkpoint(method: Method, extra: dict[str, Tensor], progress: Progress, path: Path) -> None:
    """Write the state; the file before it becomes previous.safetensors once this one is complete.

    extra: tensors beside the method's (averages, random state, sums). CheckFailed where a weight is not finite.
    """
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in _tensors(method).items()}
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise CheckFailed(
                f"'{name}' is not finite any more: lower train.optimizer.lr (of a fine-tune quantize.lr); "
                f"no checkpoint was written, {whole(path)}"
            )
    tensors |= {f"extra.{name}": value.detach().cpu().contiguous().clone() for name, value in extra.items()}
    text = json.dumps(asdict(progress))
    header = {
        "format": FORMAT,
        "tensors_sha256": tensors_sha256(tensors),
        "progress": text,
        "progress_sha256": _sha(text),
    }
    try:
        with atomic_file(path, keep=path.with_name(PREVIOUS) if path.name == LAST else None) as part:
            safetensors.torch.save_file(tensors, part, metadata=header)
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckFailed(
            f"checkpoint '{path}' could not be written ({error}): make room and use --resume; {whole(path)}"
        ) from None


def whole(path: Path) -> str:
    """Which checkpoint stands, for people."""
    found = path.with_name(LAST)
    return f"'{found}' is still whole" if found.exists() else "there is no checkpoint before it"


def load_last(method: Method, folder: Path) -> tuple[Progress, dict[str, Tensor]]:
    """Restore `method` from the last checkpoint, or from the one before it where the last is damaged.

    A damaged last one is moved aside. From the start where a run was stopped before its first checkpoint.
    """
    last, previous = folder / LAST, folder / PREVIOUS
    if not last.exists() and not previous.exists():
        return Progress(), {}
    try:
        return load_checkpoint(method, last)
    except BadInput as error:
        if not previous.exists():
            raise
        loaded = load_checkpoint(method, previous)
        if last.exists():
            last.replace(folder / DAMAGED)
            log.warning("%s; it is now '%s'", str(error).split(": start")[0], folder / DAMAGED)
        log.warning("going on from '%s', behind epoch %d, batch %d", previous, loaded[0].epoch, loaded[0].batch)
        return loaded


def load_checkpoint(method: Method, path: Path) -> tuple[Progress, dict[str, Tensor]]:
    """Restore `method` in place; returns how far the run came and the tensors beside the method's.

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
    text = header.get("progress", "")
    hashes = header.get("tensors_sha256"), header.get("progress_sha256")
    if header.get("format") != FORMAT or hashes != (tensors_sha256(tensors), _sha(text)):
        raise BadInput(f"checkpoint '{path}' was edited or is not one of ours: start again in another --out")
    extra = {name.removeprefix("extra."): tensors.pop(name) for name in list(tensors) if name.startswith("extra.")}
    _restore(method, tensors, path)
    return Progress(**json.loads(text)), extra


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


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
