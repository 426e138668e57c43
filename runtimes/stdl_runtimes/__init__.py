"""Runs bundles on devices and proves parity: no PyTorch here. Start at `load` or the command `stdl-validate`."""

from stdl_runtimes.base import REGISTRY, Recorded, Runtime, Session, load
from stdl_runtimes.streams import Streams

__all__ = ["REGISTRY", "Recorded", "Runtime", "Session", "Streams", "load"]
