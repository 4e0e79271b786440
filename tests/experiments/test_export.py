"""Exports of the toy experiment: what they write to checkpoints/, and what they refuse."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fwdiff_lite.experiments import __main__ as command_line
from fwdiff_lite.experiments import export, harness
from fwdiff_lite.experiments.measurements import to_flat
from fwdiff_lite.storage.checkpoints import read_manifest
from fwdiff_lite.storage.files import read_json
from tests.experiments.toy_experiment import TOY


def test_weights_and_results_are_exported_and_loaded(toy, tmp_path, monkeypatch):
    monkeypatch.setenv("FWDIFF_ROOT", str(tmp_path))
    folder = toy("train full baseline --steps 1")
    toy("evaluate")
    monkeypatch.setenv("FWDIFF_COMMIT", "of the export")
    toy("export full")
    recorded = harness.load_results(TOY)
    numbers = to_flat(recorded.rows)
    total = numbers["full_eta_0"]["energy_60"]
    assert numbers["exact"] == {"energy_60": 0.0} and numbers["full_eta_0"]["energy_60_high"] == total + 1
    assert set(recorded.trainings) == {"full", "baseline"} and recorded.arrays["full_sizes"].tolist() == [3, 30]
    entries = read_manifest()
    assert set(entries) == {"90_toy.npz", "90_toy.safetensors"}
    weights, results = entries["90_toy.safetensors"], entries["90_toy.npz"]
    assert weights["variant"] == "full" and weights["steps"] == 1
    assert weights["metrics"] == {"energy_60": round(total, 4), "count": numbers["full_eta_0"]["count"]}
    assert results["metrics"] == {"full_eta_0": round(total, 4), "exact": 0.0}
    for entry in (weights, results):
        assert entry["commit"] == "abc" and "toy train full --steps 1" in entry["command"]
    assert "toy evaluate full_eta_0" in results["command"]
    assert harness.load_model(TOY, "full", None, torch.device("cpu"))
    toy("train full --steps 2")
    for names in (["full"], []):
        with pytest.raises(ValueError, match="evaluation full_eta_0 used other weights of full: evaluate it again"):
            export.export(TOY, names, folder)


def test_variants_with_one_name_of_exported_weights_are_not_exported_together(toy, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FWDIFF_ROOT", str(tmp_path))
    toy("train full reseeded --steps 1")
    with pytest.raises(SystemExit):
        toy("export full reseeded")
    assert "full and reseeded are both 90_toy in checkpoints/: export one of them" in capsys.readouterr().err
    assert not (tmp_path / "checkpoints").exists()


def test_two_evaluations_with_one_name_for_different_arrays_are_not_exported(toy, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FWDIFF_ROOT", str(tmp_path))
    folder = toy("train full baseline --steps 1")
    toy("evaluate")
    path, other = folder / "evaluation_exact.npz", folder / "evaluation_full_eta_0.npz"
    with np.load(path) as own, np.load(other) as others:
        own, others = dict(own), dict(others)
    np.savez(path, **own | others | {"gap": np.array([1.0, np.nan])})
    np.savez(other, **others | {"gap": np.array([1.0, np.nan])})  # the same arrays: the control
    toy("export full")
    np.savez(path, **own | {"full_sizes": others["full_sizes"] + 1})
    with pytest.raises(SystemExit):
        toy("export full")
    message = "(exact|full_eta_0) and (exact|full_eta_0) have different arrays full_sizes: rename one of them"
    assert re.search(message, capsys.readouterr().err)


def break_nothing(folder):
    """The control."""


def change_weights(folder):
    save_file({"w": torch.zeros(1)}, folder / "full.safetensors")


def make_weights_infinite(folder):
    weights = {key: torch.full_like(w, torch.inf) for key, w in load_file(folder / "reseeded.safetensors").items()}
    save_file(weights, folder / "reseeded.safetensors")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_nothing, None),
        (change_weights, "evaluation full_eta_0 used other weights of full: evaluate it again"),
        (make_weights_infinite, "of 90_toy_reseeded are not finite in half precision: nothing was saved"),
        (
            lambda folder: (folder / "reseeded.safetensors").unlink(),
            "reseeded.safetensors: train it first",
        ),
        (lambda folder: (folder / "reseeded.json").unlink(), "reseeded.json, the record of a training: train it"),
        (lambda folder: (folder / "evaluation_exact.npz").unlink(), "evaluation_exact.npz: evaluate exact again"),
        (
            lambda folder: [x.unlink() for x in folder.glob("evaluation_*")],
            "holds no evaluation: evaluate some variant",
        ),
    ],
)
def test_all_is_exported_or_nothing(damage, message, toy, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FWDIFF_ROOT", str(tmp_path))
    folder = toy("train full reseeded baseline --steps 1")
    toy("evaluate")
    damage(folder)
    several = replace(TOY, weights_name_template="{results_name}_{variant}")
    monkeypatch.setattr(command_line, "find_experiment", lambda name: several)
    if message:
        with pytest.raises(SystemExit):
            toy("export full reseeded")
        assert message in capsys.readouterr().err.splitlines()[-1] and not list(tmp_path.glob("checkpoints/*"))
    else:
        toy("export full reseeded")
        assert set(read_manifest()) == {"90_toy_full.safetensors", "90_toy_reseeded.safetensors", "90_toy.npz"}


def test_exported_results_have_the_seed_of_the_last_training_or_else_of_the_experiment(toy, tmp_path, monkeypatch):
    monkeypatch.setenv("FWDIFF_ROOT", str(tmp_path))
    folder = toy("evaluate exact")
    assert "seed" not in read_json(folder / "evaluation_exact.json")
    with pytest.raises(ValueError, match="runs holds no training, whose seed is recorded: give toy a `seed`"):
        export.export(TOY, [], folder)
    assert not (tmp_path / "checkpoints").exists()
    for name, seed in (("", 5), ("reseeded", 1)):
        if name:
            toy(f"train {name} --steps 1")
        export.export(replace(TOY, seed=5), [], folder)
        assert read_manifest()["90_toy.npz"]["seed"] == seed
