"""Flatland, digits and projections through the harness: training, evaluation and export, at toy size."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from fwdiff_lite.experiments import __main__ as command_line
from fwdiff_lite.experiments import export, harness, projections
from fwdiff_lite.experiments.measurements import to_flat

CASES = {  # variants, options of their networks, options of the evaluation
    "flatland": (("full", "deterministic", "no_novel"), {}, {"scenes": 2, "samples": 2, "steps": 2}),
    "digits": (
        ("full", "deterministic", "sweep_network_alone"),
        {"width": 8, "depth": 1},
        {"digits": 4, "samples": 2, "steps": 2},
    ),
    "projections": (
        ("vae", "wedge_15", "space"),
        {"width": 8, "depth": 1},
        {"contexts": 12},
    ),
}
NOT_RECORDED = {"full", "full_one_target", "space", "deterministic", "no_novel", "null", "vae"}  # their arrays are


def squared_distance(truth, samples):
    assert truth.shape == samples.shape and truth.dtype == samples.dtype == torch.float32
    return float((truth - samples).square().mean())


@pytest.mark.parametrize("name", CASES)
def test_evaluations_record_what_the_notebook_loads(name, tmp_path, monkeypatch):
    names, network_options, options = CASES[name]
    monkeypatch.setattr(projections, "c2st_accuracy", squared_distance)  # a C2ST takes a second at every size
    declared = command_line.find_experiment(name)
    recorded = harness.load_results(declared)
    variants = {
        key: replace(variant, build=partial(variant.build, **network_options))
        for key, variant in declared.variants.items()
    }
    small = replace(declared, variants=variants)
    for variant in names:
        harness.train(small, variant, tmp_path, steps=1, batch_size=2)
    harness.evaluate(small, [], tmp_path, options)
    monkeypatch.setenv("FWDIFF_ROOT", str(tmp_path))
    export.export(small, names[:1], tmp_path)
    results = harness.load_results(small)
    assert set(results.trainings) == set(names) and results.arrays
    for key, array in results.arrays.items():
        assert array.dtype == recorded.arrays[key].dtype and array.shape[1:] <= recorded.arrays[key].shape[1:], key
    numbers, recorded_numbers = to_flat(results.rows), to_flat(recorded.rows)
    assert all(np.isfinite(list(measures.values())).all() for measures in numbers.values())
    for sampler in numbers.keys() - NOT_RECORDED:
        assert recorded_numbers[sampler].keys() <= numbers[sampler].keys(), sampler


def test_a_variant_trains_in_memory_as_the_harness_trains_it(tmp_path):
    declared = command_line.find_experiment("projections")
    variant = replace(declared.variants["finite_300_2_1"], batch_size=4)
    model = variant.build_model()
    log = variant.train_in_memory(model, 2)
    written = harness.train(declared, "finite_300_2_1", tmp_path, steps=2, batch_size=4)
    assert log.curve == written.curve and log.steps == 2
    other = replace(variant, seed=2)
    assert other.train_in_memory(other.build_model(), 2).curve != log.curve
