"""What all tests take for granted of the process that they run in, and what becomes of one that is skipped."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator

import pytest
from skips import (  # noqa: F401
    pytest_make_collect_report,
    pytest_runtest_makereport,
    pytest_terminal_summary,
)

from aspo_megatron.launch.addresses import reserved_port
from distributed import Ranks

os.environ.setdefault("TRITON_INTERPRET", "1")  # Triton reads it as it is imported, which torch.compile may do first


def pytest_configure() -> None:
    """Programs that are started are to hear of SIGHUP, which `nohup make test` would have them ignore."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with runs and ranks come first: begun last, one of them would keep a single processor busy at the end."""
    slow = {item.path for item in items if item.get_closest_marker("e2e") or item.get_closest_marker("distributed")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """The tests themselves, thousands of them, and all modules stay: no search for garbage need look at them."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def modules_of_a_test_end_with_it(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A user's module that a test wrote and imported would be another test's that gives its own the same name."""
    modules, path = set(sys.modules), list(sys.path)
    yield
    written = str(tmp_path_factory.getbasetemp())
    for name in set(sys.modules) - modules:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(written):
            del sys.modules[name]
    sys.path[:] = path


@pytest.fixture(scope="session")
def ranks() -> Iterator[Ranks]:
    """Ranks that all tests of this process share."""
    with Ranks() as running:
        yield running


@pytest.fixture
def port() -> Iterator[int]:
    """A loopback port that rank 0 can listen on, and that no one is given who asks for any."""
    with reserved_port() as number:
        yield number
