"""Every notebook runs in the smoke profile in seconds, and a second run gives the same numbers."""

import pytest

from fwdiff_lite.pipeline.notebook import notebook_names
from fwdiff_lite.pipeline.reproduce import main
from fwdiff_lite.storage.files import read_json

pytestmark = pytest.mark.slow
MINUTES, GIGABYTES = 2, 2
RUN_TWICE = ("00_one_page", "05_flatland")  # the others are run again, in the cpu profile, with `make test`'s notebooks


@pytest.mark.parametrize("name", notebook_names())
def test_smoke_runs_take_seconds_and_two_are_one(name, tmp_path):
    outputs = [tmp_path / "first", tmp_path / "second"][: 1 + (name in RUN_TWICE)]
    for output in outputs:
        assert main(["--profile", "smoke", "--only", name, "--output", str(output)]) == 0
    metrics = [(output / "metrics.json").read_bytes() for output in outputs]
    assert len(set(metrics)) == 1
    cost = read_json(outputs[0] / "provenance.json")[name]["smoke"]
    assert cost["minutes"] <= MINUTES and cost["peak_gb"] <= GIGABYTES
