"""Chips and flows that cannot be exported to, each with the reason and the way out. None of them was tried on hardware.

Why there is no file for them rather than one that nobody could check: a spiking network that is silently something
else on the chip is worse than a refusal.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from stdl_export.common.errors import BadInput

NIR = "export --target nir and ask its vendor's tools to read that"

REFUSED: Mapping[str, str] = MappingProxyType(
    {
        "akida": (
            "its layers keep no potential between frames (activations are quantised step ReLUs), so leak, threshold "
            "over time and reset have no counterpart: train a quantised ReLU network, and convert it with quantizeml "
            "and cnn2snn"
        ),
        "spinnaker1": (
            "sPyNNaker builds networks from PyNN scripts for a board that is connected, and reads no file: "
            "take --target spinnaker2, or write the script from --target nir"
        ),
        "brainscales2": (
            "it is analog and calibrated on the very chip, and without one a file has no meaning: "
            "export --target nir and load that with hxtorch where the chip is"
        ),
        "loihi1": (
            "its tools (NxSDK) are no longer given out, and netx files are Loihi 2's: "
            "take --target loihi2, or --target nir and nengo-loihi"
        ),
        "innatera": f"the SDK of its T1 is closed, and its format not public: {NIR}",
        "lynxi": f"we know of no public compiler or format: {NIR}",
        "spiker": (
            "Spiker+ generates VHDL for dense networks from a dictionary of its own, which only an HDL flow can check: "
            "build that dictionary from --target nir"
        ),
        "fpga": (
            "hls4ml takes spiking layers (dense, snnTorch-like Leaky) in its main branch only, not in a release: "
            "use hls4ml's PyTorch front end by itself"
        ),
    }
)

ALSO: Mapping[str, str] = MappingProxyType(
    {
        "spinnaker": "spinnaker1", "loihi": "loihi1", "hls4ml": "fpga", "t1": "innatera", "spiker+": "spiker",
        "bss2": "brainscales2",
    }
)  # fmt: skip
"""Other names."""


def check(name: str) -> None:
    """BadInput with the reason where a target is one of these."""
    known = ALSO.get(name, name)
    if known in REFUSED:
        raise BadInput(f"--target {name} is refused: {REFUSED[known]}")
