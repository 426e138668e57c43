"""docs/tensorrt.md and docs/jetson.md quote what the tools say: what stands in them in `code` is said somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [
    *(ROOT / "stdl_export").glob("*.py"),
    *(ROOT / "stdl_export" / "common").glob("*.py"),
    *(ROOT / "runtimes" / "stdl_runtimes").glob("*.py"),
]

# In the code a value stands where the page has an example of it.
VALUES = re.compile(
    r": |\.\.\.|\d[\d.]*|'[^']*'|BUNDLE|engine/\S*|\((?:Operator|cudaMalloc)\)|the sequence graph"
    r"|\btensorrt(?:_rtx)?\b|libnvinfer\S*"
)
TENSORRTS = ("Could not find any implementation", "cannot open shared object file")  # not ours


def said() -> str:
    """All strings of the sources, those over several lines in one piece, without the values in them."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in SOURCES)
    text = re.sub(r"\"\s*\n\s*f?\"", "", text)
    return re.sub(r"\{[^{}\n]*\}", "\0", text)


def quotes(page: str) -> list[str]:
    """What is in the table of the last section, in the column of what is said."""
    section = (ROOT / "docs" / page).read_text(encoding="utf-8").split("## What goes wrong")[1]
    rows = [line.split("|") for line in section.splitlines() if line.startswith("| ")][1:]
    return [quote for row in rows for quote in re.findall(r"`([^`]+)`", row[2])]


@pytest.mark.parametrize("page", ["tensorrt.md", "jetson.md"])
def test_what_a_page_quotes_is_said(page: str) -> None:
    text, found = said(), quotes(page)
    assert len(found) >= 4
    for quote in found:
        if any(words in quote for words in TENSORRTS):
            continue
        for piece in VALUES.split(quote):
            words = piece.strip(" :;,()")
            assert len(words) < 8 or words in text, f"{page}: '{words}' of '{quote}'"
