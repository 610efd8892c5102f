"""Which test cases run, in how many processes, and the count of both at the end.

``pytest`` alone runs all but the markers ``slow`` and ``browser``, in a process per core;
``pytest -m ""`` runs everything.  A test given by its name (``FILE::TEST``) runs in this process,
unless ``-n`` says otherwise.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest

MOST_PROCESSES = 4
"""Each imports torch and compiles numba: more of them pay off on a machine with much memory."""
CASES = pytest.StashKey[tuple[int, int]]()


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Use every core, up to a bound; none besides this process for tests that are named."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None
    if config.args and all("::" in argument for argument in config.args):
        return 0
    return min(len(os.sched_getaffinity(0)), MOST_PROCESSES)


def pytest_configure(config: pytest.Config) -> None:
    """Give each of several processes one thread: they share the cores."""
    if config.getoption("numprocesses", None):
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if hasattr(config, "workerinput"):
        # readline exports the terminal's width to processes started later, and a console that is
        # made while it is set keeps it
        os.environ.pop("COLUMNS", None)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> Iterator[None]:
    """Count the cases before and after the selection, and put the longest and the demo's first.

    Processes steal tests from each other's ends, so a test that may take more than others, as its
    ``timeout`` says, starts early.  One process makes the demo, for a minute: another that steals
    its last tests meanwhile does not wait for it.
    """
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if "browser" in fixtures:
            item.add_marker(pytest.mark.browser)
        elif "demo_run" in fixtures:  # a demo takes more than a minute of one core
            item.add_marker(pytest.mark.slow)
    collected = len(items)
    yield
    shared = {"demo_run", "demo"}
    items.sort(key=lambda item: shared.isdisjoint(getattr(item, "fixturenames", ())))
    items.sort(key=longest_timeout, reverse=True)
    config.stash[CASES] = (len(items), collected)
    if hasattr(config, "workeroutput"):
        config.workeroutput["cases"] = config.stash[CASES]


def longest_timeout(item: pytest.Item) -> float:
    """Return the seconds that a test asks for beyond the usual ones, else 0."""
    return max((mark.args[0] for mark in item.iter_markers("timeout")), default=0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error) -> None:
    """Take the counts of a worker; those of all workers are the same."""
    if "cases" in getattr(node, "workeroutput", {}):
        node.config.stash[CASES] = tuple(node.workeroutput["cases"])


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    selected, collected = config.stash.get(CASES, (0, 0))
    if collected:
        share = 100 * selected / collected
        terminalreporter.write_line(f"{selected} of {collected} cases selected ({share:.1f} %)")


def pytest_collection_finish() -> None:
    """Take what the imports made out of the collector's sight: it is never garbage."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let the end of the process take it away after all."""
    gc.unfreeze()
