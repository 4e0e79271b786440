"""Operations and bytes are counted correctly; a measured call runs as often as requested."""

import json

import pytest
import torch

from fwdiff_lite.experiments.harness import Session
from fwdiff_lite.experiments.inverse_graphics import benchmark, cost
from fwdiff_lite.experiments.inverse_graphics.variants import Settings, build_model
from fwdiff_lite.storage.files import read_json

SMALL = {"rays": 16, "samples": 4, "views": 1, "side": 16}
CPU = torch.device("cpu")
training_step = benchmark.training_step


def failing_training_step(batch_size, **options):
    if options["samples"] < 0:
        raise RuntimeError("out of memory")
    return training_step(batch_size, **options)


def test_a_matrix_product_is_counted_correctly():
    a, b = torch.ones(3, 5), torch.ones(5, 7)
    counted = benchmark.count_operations(lambda: (a @ b).T)  # the transposed view moves nothing
    assert counted["gigaflop"] == 2 * 3 * 5 * 7 / 1e9
    assert counted["gigabytes_moved"] == 4 * (3 * 5 + 5 * 7 + 3 * 7) / 1e9


def test_memory_is_counted_correctly():
    x = torch.ones(1000, requires_grad=True)  # 4,000 bytes, made outside of the calls
    kept = benchmark.count_memory(lambda: x.exp().sin().sum())
    assert kept == {"peak_megabytes": 8004e-6, "left_megabytes": 4004e-6}, "sin keeps its input, and exp its output"
    with torch.no_grad():
        assert benchmark.count_memory(lambda: x.exp().sin().sum())["left_megabytes"] == 4e-6, "the result alone"
        assert benchmark.count_memory(lambda: x[:10].view(2, 5).T) == {"peak_megabytes": 0, "left_megabytes": 0}


def test_a_larger_setting_costs_more():
    base = benchmark.count_operations(benchmark.training_step(1, **SMALL, device=CPU))
    for name, value in SMALL.items():
        doubled = benchmark.count_operations(benchmark.training_step(1, **(SMALL | {name: 2 * value}), device=CPU))
        assert all(doubled[key] > base[key] for key in base), name


def test_calls_are_measured_and_sampling_runs():
    calls = []
    cost = benchmark.measure(lambda: calls.append(0), CPU, repeats=3, warmup=2)
    assert len(calls) == 5 and set(cost) == {"seconds"} and cost["seconds"] >= 0
    model = build_model(Settings(side=16), samples_per_ray=4, width=16, widths=(8, 16)).eval()
    assert benchmark.measure(benchmark.sampling_call(model, 2, 1, CPU), CPU, 1, 0)["seconds"] > 0


def test_all_costs_are_measured(monkeypatch, tmp_path):
    for name, value in (("BATCH_SIZE", 1), ("DEFAULT", SMALL), ("SWEEPS", {"rays": (16,), "samples": (-1,)})):
        monkeypatch.setattr(benchmark, name, value)
    monkeypatch.setattr(benchmark, "build_model", lambda *args, **options: build_model(
        Settings(side=16), samples_per_ray=4, width=16, widths=(8, 16)
    ))  # fmt: skip
    monkeypatch.setenv("FWDIFF_COMMIT", "abc")
    session = Session(cost.EXPERIMENT, tmp_path, {})
    monkeypatch.setattr(benchmark, "training_step", failing_training_step)
    with pytest.raises(RuntimeError):
        cost.evaluate_settings(session)
    measured = read_json(tmp_path / "settings_parts.json")["parts"]
    assert measured.keys() == {"sampling_1", "training", "training_counted", "rays_16"}, "what came before the failure"
    monkeypatch.setattr(benchmark, "SWEEPS", {"rays": (16,)})
    costs = json.loads(str(cost.evaluate_settings(session).arrays["settings"]))
    assert costs == {"batch": 1, "sweep": {"rays_16": measured.pop("rays_16")}} | measured, "nothing is measured twice"
    assert costs["sweep"]["rays_16"]["batch"] == 1 and costs["training"]["seconds"] > 0
