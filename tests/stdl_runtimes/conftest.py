"""One bundle for all tests of the command that do not change it, and the command."""

import pytest
import validated

from stdl_export.common.console import run
from stdl_export.common.errors import Unavailable
from stdl_runtimes import tensorrt
from stdl_runtimes.cli import command


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Of its labels all but three are what it predicts."""
    return validated.bundle(tmp_path_factory.mktemp("bundles") / "small")


@pytest.fixture
def validate(capsys, monkeypatch):
    """Run the command; (exit code, stdout, stderr). TensorRT has no driver here, whatever the machine has."""
    monkeypatch.setattr(tensorrt, "load", _no_driver)

    def call(*args):
        code = run(command, [str(arg) for arg in args])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def _no_driver(bundle, device):
    raise Unavailable("built, not run: no NVIDIA driver")
