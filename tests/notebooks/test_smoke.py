"""Every notebook runs in the smoke profile in seconds, and a second run gives the same numbers."""

import pytest

from fwdiff_lite.pipeline.notebook import notebook_names
from fwdiff_lite.pipeline.reproduce import main
from fwdiff_lite.storage.files import read_json

pytestmark = pytest.mark.slow
MINUTES, GIGABYTES = 2, 2


@pytest.mark.parametrize("name", notebook_names())
def test_two_smoke_runs_are_one(name, tmp_path):
    outputs = tmp_path / "first", tmp_path / "second"
    for output in outputs:
        assert main(["--profile", "smoke", "--only", name, "--output", str(output)]) == 0
    first, second = (read_json(output / "metrics.json") for output in outputs)
    assert first == second
    assert (outputs[0] / "metrics.json").read_bytes() == (outputs[1] / "metrics.json").read_bytes()
    cost = read_json(outputs[0] / "provenance.json")[name]["smoke"]
    assert cost["minutes"] <= MINUTES and cost["peak_gb"] <= GIGABYTES
