"""The architecture, held by tests: import rules, what a wheel installs, and life without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "stdl_train": ROOT / "stdl_train",
    "stdl_export": ROOT / "stdl_export",
    "stdl_models": ROOT / "models" / "stdl_models",
    "stdl_runtimes": ROOT / "runtimes" / "stdl_runtimes",
}


def test_import_rules_hold():
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_every_module_of_stdl_export_stands_under_a_rule():
    """A new file right of NIR must not escape the rules because nobody wrote its name into them."""
    rules = (ROOT / "pyproject.toml").read_text()
    modules = {path.stem for path in PACKAGES["stdl_export"].glob("*.py")} - {"__init__", "__main__"}
    modules |= {path.parent.name for path in PACKAGES["stdl_export"].glob("*/__init__.py")} - {"common"}
    assert {name for name in modules if f'"stdl_export.{name}"' not in rules} == set()


def test_a_wheel_installs_exactly_the_four_packages(tmp_path):
    build = pytest.importorskip("build")
    builder = build.ProjectBuilder(ROOT)
    wheel = builder.build("wheel", tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == set(PACKAGES)
    for package in PACKAGES:
        assert f"{package}/py.typed" in names
    assert "stdl_train/data/digits.npz" in names
    assert "stdl_models/recipes/digits-vgg5.toml" in names
    assert "stdl_export/dialects.toml" in names
    assert "stdl_export/interop/peers.toml" in names
    assert "stdl_runtimes/report/style.css" in names


@pytest.mark.parametrize("package", PACKAGES)
def test_package_inits_import_nothing_heavy(package):
    for path in PACKAGES[package].rglob("__init__.py"):
        imported = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import)]
        names = {alias.name.split(".")[0] for node in imported for alias in node.names}
        assert names.isdisjoint({"torch", "onnx", "onnxruntime", "numpy", "nir", "h5py", "tensorrt", "kornia"}), path


BLOCK_TORCH = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "stdl_models", "kornia"}:
            raise ImportError(f"{name} is blocked in this test")
sys.meta_path.insert(0, Block())
"""


def without_torch(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BLOCK_TORCH + code, *args], capture_output=True, text=True, check=False
    )


def test_export_and_validation_work_without_torch(tmp_path):
    """A .nir file to a bundle to a verdict, with torch blocked."""
    make = (
        "import sys, chains\n"
        "from pathlib import Path\n"
        "from stdl_export import graph\n"
        "graph.write(chains.small_network(), Path(sys.argv[1]))\n"
    )
    helpers = f"import sys; sys.path.insert(0, {str(ROOT / 'tests' / 'helpers')!r})\n"
    done = without_torch(helpers + make, str(tmp_path / "g.nir"))
    assert done.returncode == 0, done.stderr
    export = "from stdl_export.cli import command; from stdl_export.common.console import run; sys.exit(run(command))"
    done = without_torch(export, str(tmp_path / "g.nir"), "--target", "onnx", "--out", str(tmp_path / "b"))
    assert done.returncode == 0, done.stderr
    validate = (
        "from stdl_runtimes.cli import command; from stdl_export.common.console import run; sys.exit(run(command))"
    )
    done = without_torch(validate, str(tmp_path / "b"), "--runtime", "reference,onnxruntime")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PASS" in done.stdout


def test_data_is_read_without_torch():
    done = without_torch(
        "from stdl_train.data.samples import load; load('digits', 'test'); assert 'torch' not in sys.modules"
    )
    assert done.returncode == 0, done.stderr


def test_importing_the_runtimes_is_quick_and_configures_no_logging():
    """0.3 s on the clock would judge the machine: what takes longer than that is not to be imported."""
    code = (
        "import sys, logging, stdl_runtimes; stdl_runtimes.load; "
        "heavy = {'torch', 'onnx', 'onnxruntime', 'nir', 'h5py', 'pydantic', 'rich', 'scipy', 'stdl_train'}; "
        "sys.exit(str(heavy & set(sys.modules))) if heavy & set(sys.modules) else None; "
        "sys.exit('handlers') if logging.getLogger().handlers or logging.getLogger('stdl').handlers else None"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    timed = "import time; t = time.perf_counter(); import stdl_runtimes; print(time.perf_counter() - t)"
    done = subprocess.run([sys.executable, "-c", timed], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 3, "0.07 s on a quiet machine"
