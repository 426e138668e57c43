"""Pictures a second from a folder of JPEG files: our batches against a plain PyTorch data set and DataLoader.

The pictures are drawn here, 500x375 pixels of smooth colours with noise, saved as JPEG (quality 90); or they are yours,
with --folder. Both read them in the same random order, scale the shorter side to 256, take the middle 224x224, and give
float32 batches of 64; that the pixels are equal is checked before anything is timed. The ways run in turns, pass by
pass, so that what else the machine does falls on all of them.

    python benchmarks/loading_images.py [--pictures 512] [--repeats 5] [--workers 0,2] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import environment, report
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from stdl_train.data.images.sets import image_folder
from stdl_train.loading import Data

SIZE, SHORT, BATCH = 224, 256, 64
Way = Callable[[], Iterator[Tensor]]


def main() -> None:
    """Measure, print, and write benchmarks/results/loading_images.json and its table in docs/benchmarks.md."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pictures", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", default="0,2", help="Numbers of processes that read ahead.")
    parser.add_argument("--folder", help="One sub-folder a class in train/ and test/, instead of drawn pictures.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as made:
        root = Path(arguments.folder or _drawn(Path(made), arguments.pictures))
        samples = image_folder("train", str(root), arguments.pictures, size=SIZE, resize=SHORT)
        order = torch.from_numpy(np.random.default_rng(0).permutation(len(samples.labels)))
        files = _Files(samples.images._pictures, samples.mean, samples.std)
        ways: dict[str, Way] = {}
        for workers in map(int, arguments.workers.split(",")):
            ways[f"PyTorch DataLoader, {workers} workers"] = _theirs(files, order, workers)
            ways[f"ours, {workers} workers"] = _ours(samples, order, workers)
        _check_equal(list(ways.values()))
        seconds = _in_turns(ways, arguments.repeats)
    report(
        "loading_images",
        "Pictures, loaded",
        ("what", "pictures/s (median)", "slowest to fastest", "to the DataLoader beside it (median of pairs)"),
        _rows(seconds, len(order)),
        {
            "environment": environment("torch", "numpy", "pillow"),
            "seconds": seconds,
            **(vars(arguments) | {"folder": "given" if arguments.folder else "drawn", "pictures": len(order)}),
        },
    )


class _Files(Dataset[Tensor]):
    """What everybody writes: a picture is opened, scaled, cropped, a tensor, and normalised."""

    def __init__(self, pictures: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self._files: list[Path] = [pictures.read(index) for index in range(len(pictures.labels))]
        self._mean, self._std = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Tensor:
        picture = Image.open(self._files[index]).convert("RGB")
        scale = SHORT / min(picture.size)
        side = SIZE / scale
        left, top = (picture.width - side) / 2, (picture.height - side) / 2
        box = (left, top, left + side, top + side)
        cropped = np.asarray(picture.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=box))
        pixels = torch.from_numpy(cropped.transpose(2, 0, 1).copy()).float() / 255
        return (pixels - self._mean) / self._std


def _theirs(files: _Files, order: Tensor, workers: int) -> Way:
    return lambda: iter(DataLoader(files, BATCH, sampler=order.tolist(), num_workers=workers))


def _ours(samples: Any, order: Tensor, workers: int) -> Way:
    data = Data.of(samples, torch.device("cpu"), workers=workers)

    def batches() -> Iterator[Tensor]:
        chosen = order.split(BATCH)
        for indices, (images, _) in zip(chosen, data.read(chosen), strict=True):
            yield data.encoded(images, indices)

    return batches


def _check_equal(ways: list[Way]) -> None:
    """All give the same batches, up to a rounding of the division."""
    first = next(iter(ways[0]()))
    assert first.shape == (min(BATCH, len(first)), 3, SIZE, SIZE)
    assert first.std() > 0.1
    for way in ways[1:]:
        torch.testing.assert_close(next(iter(way())), first, atol=1e-6, rtol=0)


def _in_turns(ways: dict[str, Way], repeats: int) -> dict[str, list[float]]:
    """Seconds of whole passes; the first, which warms the system's file cache, does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            for _ in way():
                pass
            if repeat:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def _rows(seconds: dict[str, list[float]], count: int) -> list[list[str]]:
    """Each two ways are a pair: theirs, ours."""
    rows, names = [], list(seconds)
    for theirs, ours in zip(names[::2], names[1::2], strict=True):
        ratios = sorted(a / b for a, b in zip(seconds[theirs], seconds[ours], strict=True))
        for name, ratio in ((theirs, "-"), (ours, f"{ratios[len(ratios) // 2]:.2f} times as fast")):
            rates = sorted(count / each for each in seconds[name])
            rows.append([name, f"{rates[len(rates) // 2]:,.0f}", f"{rates[0]:,.0f} to {rates[-1]:,.0f}", ratio])
    return rows


def _drawn(root: Path, count: int) -> Path:
    """JPEG files of smooth colours with noise, in two classes; one more for testing, which is not read."""
    for number in range(count + 2):
        folder = root / ("test" if number >= count else "train") / str(number % 2)
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(number)
        small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(small.resize((500, 375), Image.Resampling.BICUBIC), dtype=np.int16)
        noisy = np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{number}.jpg", quality=90)
    return root


if __name__ == "__main__":
    main()
