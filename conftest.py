"""For `make check` and `make test`: the order of the tests, which of them are slow, what took how long.

And what the rerun of a notebook is not compared in.
"""

import json
import time
from collections import Counter
from pathlib import Path

import pytest

BEGAN = time.monotonic()
SLOW = 3.0  # seconds from which on a test is left out of `make check`
SLOW_FOLDER = "tests/experiments/"  # every test trains or samples a network
SLOW_FILE = 20.0  # seconds from which on a file's tests come after those of the faster files
RECORD = Path(__file__).parent / "tests" / "durations.json"  # of the last recorded `make test`, in seconds
DURATIONS: Counter[str] = Counter()  # of this run


def pytest_collectstart(collector):
    """Warnings depend on the machine; tests/notebooks holds that the committed notebooks have none."""
    if collector.path.suffix == ".ipynb":
        collector.skip_compare = (*collector.skip_compare, "stderr", "image/gif")


@pytest.hookimpl(tryfirst=True)  # before pytest selects by markers
def pytest_collection_modifyitems(items):
    """Marks slow tests, and sorts all: the files with fast tests first, then the others, the longest first."""
    recorded = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    for item in items:
        if recorded.get(item.nodeid, 0.0) >= SLOW or item.nodeid.startswith(SLOW_FOLDER):
            item.add_marker(pytest.mark.slow)
    items[:] = fast_files_first([(item, item.nodeid) for item in items], recorded)


def fast_files_first(tests: list[tuple], recorded: dict[str, float]) -> list:
    """Sorts (item, node id) pairs by their files. With the longest first, no worker waits long for another at the end.

    recorded: seconds, by the node id of a test, or by the path of a notebook
    """
    seconds = Counter({path: recorded[path] for path in {file_of(node) for _, node in tests} & recorded.keys()})
    for _, node in tests:
        seconds[file_of(node)] += recorded.get(node, 0.0)
    late = {path: -total for path, total in seconds.items() if total >= SLOW_FILE}
    return [item for item, _ in sorted(tests, key=lambda test: late.get(file_of(test[1]), -float("inf")))]


def file_of(node: str) -> str:
    """The file that a test's node id names."""
    return node.split("::")[0]


def pytest_runtest_logreport(report):
    """Adds up what a test took; the cells of a notebook count together."""
    path = file_of(report.nodeid)
    DURATIONS[path if path.endswith(".ipynb") else report.nodeid] += report.duration


def pytest_sessionfinish(session, exitstatus):
    """Keeps the durations of a whole run that passed; fwdiff_lite.pipeline.readme takes them from there."""
    nbval = session.config.getoption("nbval", default=False)  # its plugin may be off
    whole = nbval and {"tests", "notebooks"} <= set(session.config.args)
    if whole and exitstatus == 0 and not hasattr(session.config, "workerinput"):
        from fwdiff_lite.pipeline.reproduce import record_total
        from fwdiff_lite.storage.files import write_json

        build = session.config.rootpath / "build"
        record_total(build / "test.json", "make test", time.monotonic() - BEGAN)
        write_json(build / "durations.json", {node: round(took) for node, took in DURATIONS.items() if took >= 1})
