"""Every test starts from the same seed, and small tensors stay on one thread: two make them slower, not faster."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import hypothesis
import pytest
import torch

# No deadlines: how fast a shared machine is says nothing about the code. In CI the examples are the same each time, so
# that a failure there is the change's; on a developer's machine they are new each time.
slow_is_fine = [hypothesis.HealthCheck.too_slow]
hypothesis.settings.register_profile("local", deadline=None, suppress_health_check=slow_is_fine)
hypothesis.settings.register_profile(
    "ci", deadline=None, suppress_health_check=slow_is_fine, derandomize=True, print_blob=True
)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")


# A shell's background jobs ignore Ctrl-C, and so would all that tests start and stop by it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or fills the cache of whoever runs it; engines built by one test serve the others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STDL_CACHE", str(tmp_path_factory.mktemp("user-cache")))
        yield


@pytest.fixture(autouse=True)
def _reproducible() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
