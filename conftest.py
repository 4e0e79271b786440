"""For whole runs of `make test`: what a notebook's rerun is not compared in, and how long it all took."""

import time

BEGAN = time.monotonic()


def pytest_collectstart(collector):
    """Warnings depend on the machine; tests/notebooks holds that the committed notebooks have none."""
    if collector.path.suffix == ".ipynb":
        collector.skip_compare = (*collector.skip_compare, "stderr", "image/gif")


def pytest_sessionfinish(session, exitstatus):
    """Keeps the minutes of a whole run that passed; fwdiff_lite.pipeline.readme takes them from there."""
    whole = session.config.option.nbval and {"tests", "notebooks"} <= set(session.config.args)
    if whole and exitstatus == 0 and not hasattr(session.config, "workerinput"):
        from fwdiff_lite.pipeline.reproduce import record_total

        record_total(session.config.rootpath / "build" / "test.json", "make test", time.monotonic() - BEGAN)
