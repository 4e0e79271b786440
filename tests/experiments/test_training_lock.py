"""One command at a time trains a variant in a folder."""

import os
import signal
import time

import pytest

from fwdiff_lite.experiments.training_lock import training_lock
from fwdiff_lite.storage.files import read_json


def test_a_training_in_a_folder_where_another_process_trains_it_is_refused(toy, tmp_path, monkeypatch, capsys):
    folder, (ready, started) = tmp_path / "runs", os.pipe()
    if not (process := os.fork()):
        with training_lock(folder / "full.safetensors"):
            os.write(started, b".")
            time.sleep(60)
        os._exit(0)
    try:
        assert os.read(ready, 1)
        with pytest.raises(SystemExit):
            toy("train full --steps 1")
        message = f"another command trains full in {folder}: wait for it, or name another --out"
        assert message in capsys.readouterr().err.splitlines()[-1]
        assert not [path for path in folder.iterdir() if path.suffix != ".lock"], "nothing was written"
        toy("train reseeded --steps 1")
        monkeypatch.setenv("RANK", "1")
        with training_lock(folder / "full.safetensors"):
            pass  # a further process of one training
        monkeypatch.delenv("RANK")
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    toy("train full --steps 1")
    assert read_json(folder / "full.json")["steps"] == 1 and not list(folder.glob(".*")), "no lock outlives its process"
