"""Draws docs/images/report.png: a report in a headless Chromium, on a desk and on a phone in the dark.

stdl-validate demo/bundle --latency --report report.html
python docs/images/report.py report.html
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
HEIGHT = 1600
DESK, PHONE, BETWEEN = 960, 360, 24
SMALLER = 0.6  # of the desk's page, so that most of it is seen
COLOURS = 128  # the page has few; a palette keeps the file small


def shot(browser: str, page: Path, width: int, height: int, dark: bool) -> Image.Image:
    """The top of the page as a picture of that width."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        picture = Path(folder) / "page.png"
        subprocess.run(
            [
                browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                f"--blink-settings=preferredColorScheme={0 if dark else 1}", f"--user-data-dir={folder}/profile",
                f"--window-size={width},{height}", f"--screenshot={picture}", page.resolve().as_uri(),
            ],
            check=True, capture_output=True,
        )  # fmt: skip
        return Image.open(picture).convert("RGB")


def main() -> None:
    """Both beside each other."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("there is no chromium and no google-chrome here")
    page = Path(sys.argv[1])
    desk = shot(browser, page, DESK, int(HEIGHT / SMALLER), dark=False)
    desk = desk.resize((int(DESK * SMALLER), HEIGHT), Image.Resampling.LANCZOS)
    drawn = Image.new("RGB", (desk.width + BETWEEN + PHONE, HEIGHT), "#8a8f98")
    drawn.paste(desk, (0, 0))
    drawn.paste(shot(browser, page, PHONE, HEIGHT, dark=True), (desk.width + BETWEEN, 0))
    few = drawn.quantize(COLOURS, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    few.save(HERE / "report.png", optimize=True)


if __name__ == "__main__":
    main()
