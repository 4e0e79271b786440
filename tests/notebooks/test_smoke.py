"""Every notebook runs in the smoke profile in seconds, and a second run gives the same numbers."""

import resource

import pytest

from fwdiff_lite.pipeline.notebook import notebook_names
from fwdiff_lite.pipeline.reproduce import main
from fwdiff_lite.storage.files import read_json

pytestmark = pytest.mark.slow
CPU_MINUTES, GIGABYTES = 2, 2  # of a run; minutes on the clock would depend on what else the machine does
RUN_TWICE = ("00_one_page", "05_flatland")  # the others are run again, in the cpu profile, with `make test`'s notebooks


def cpu_minutes() -> float:
    """The time of processors that finished children of this process have used, and their children."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (usage.ru_utime + usage.ru_stime) / 60


@pytest.mark.parametrize("name", notebook_names())
def test_smoke_runs_take_seconds_and_two_are_one(name, tmp_path):
    outputs = [tmp_path / "first", tmp_path / "second"][: 1 + (name in RUN_TWICE)]
    before = cpu_minutes()
    for output in outputs:
        assert main(["--profile", "smoke", "--only", name, "--output", str(output)]) == 0
    used = (cpu_minutes() - before) / len(outputs)
    metrics = [(output / "metrics.json").read_bytes() for output in outputs]
    assert len(set(metrics)) == 1
    peak_gb = read_json(outputs[0] / "provenance.json")[name]["smoke"]["peak_gb"]
    assert used > 0.1, "the import of torch alone takes longer, so the time of the run is not in this number"
    assert used <= CPU_MINUTES and peak_gb <= GIGABYTES
