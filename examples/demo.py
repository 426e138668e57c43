"""The main job end to end: train with STDL, export to NIR, ONNX and TensorRT, prove parity. `make demo` runs it.

Writes demo/run (the trained network) and demo/bundle (what a device gets). Each step is the command a user would type.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import time
from pathlib import Path

OUT = Path("demo")
PAGE = f"{OUT}/report.html"
BIN = Path(sys.executable).parent


def main() -> int:
    """Run the three commands; the exit code of the first that fails."""
    targets = ["nir", "onnx"]
    if importlib.util.find_spec("tensorrt_rtx") or importlib.util.find_spec("tensorrt"):
        targets.append("tensorrt")
    else:
        print(
            "left out: tensorrt (neither tensorrt nor tensorrt-rtx is installed; there is no package for this platform)"
        )
    shutil.rmtree(OUT, ignore_errors=True)
    begun = time.perf_counter()
    commands = (
        ["stdl-train", "digits-vgg5", "--out", f"{OUT}/run"],
        ["stdl-export", f"{OUT}/run", "--target", ",".join(targets), "--out", f"{OUT}/bundle"],
        ["stdl-validate", f"{OUT}/bundle", "--latency", "--json", f"{OUT}/validation.json", "--report", PAGE],
    )
    for command in commands:
        print(f"\n$ {' '.join(command)}", flush=True)
        code = subprocess.run([str(BIN / command[0]), *command[1:]], check=False).returncode
        if code:
            return code
    print(f"\ndone in {time.perf_counter() - begun:.0f} s: {OUT}/run, {OUT}/bundle, {OUT}/validation.json, {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
