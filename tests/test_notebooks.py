"""The notebooks run from the first cell to the last, and what is kept in them is what comes of it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
import notebooks  # noqa: E402

FOLDER = Path(__file__).parents[1] / "examples" / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))


def texts(notebook) -> list[str]:
    """What each code cell printed, or the text of its result."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return ["".join(each.get("text", "") or each["data"]["text/plain"] for each in cell.outputs) for cell in cells]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # snnTorch's exporter calls what nirtorch will drop
def test_from_snntorch_to_tensorrt(tmp_path: Path) -> None:
    for name in ("snntorch", "nirtorch", "onnxruntime", "tensorrt_rtx"):
        pytest.importorskip(name)
    kept = nbformat.read(FOLDER / "snntorch_to_tensorrt.ipynb", as_version=4)
    made = notebooks.run(nbformat.read(FOLDER / "snntorch_to_tensorrt.ipynb", as_version=4), tmp_path)
    everything = "\n".join(texts(made))
    assert float(everything.split("test accuracy in snnTorch: ")[1].split("%")[0]) > 94
    assert "100.00% agree" in everything
    assert "engine/tensorrt_rtx.step.engine" in everything
    assert "\nPASS: " in everything
    assert [bool(text) for text in texts(made)] == [bool(text) for text in texts(kept)], "run it again, and keep it"
    assert (tmp_path / "report.html").stat().st_size > 1000


@pytest.mark.parametrize("name", NAMES)
def test_what_is_kept_is_whole_and_tells_nothing_of_the_machine(name: str) -> None:
    """All cells in order, none with an error, a picture where one is drawn, no path of the machine it ran on."""
    text = (FOLDER / f"{name}.ipynb").read_text(encoding="utf-8")
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    kinds = [output.output_type for cell in cells for output in cell.outputs]
    assert "error" not in kinds
    assert any("image/svg+xml" in output.get("data", {}) for cell in cells for output in cell.outputs)
    places = (str(Path.home()), tempfile.gettempdir(), str(FOLDER.parents[1]), "/home/", "/Users/", "site-packages")
    assert not [place for place in places if place in text]
