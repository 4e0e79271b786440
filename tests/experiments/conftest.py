"""The command line of the toy experiment."""

import pytest

from fwdiff_lite.experiments import __main__ as command_line
from tests.experiments.toy_experiment import TOY


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """Runs a command of the toy experiment in the folder tmp_path / "runs"."""
    monkeypatch.setattr(command_line, "find_experiment", lambda name: TOY)
    monkeypatch.setenv("FWDIFF_COMMIT", "abc")
    folder = tmp_path / "runs"

    def run(words):
        command_line.main(["toy", *words.split(), "--out", str(folder)])
        return folder

    return run
