"""The model of the paper's size has that size, is compiled block by block, and is timed."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from fwdiff_lite.backbones import DiT
from fwdiff_lite.experiments import __main__ as command_line
from fwdiff_lite.experiments import timing
from fwdiff_lite.experiments.declaration import Training, Variant
from fwdiff_lite.experiments.inverse_graphics import paper_size, variants
from fwdiff_lite.storage.files import read_json
from fwdiff_lite.training import TrainingLog

CPU = torch.device("cpu")
TOY_SIZE = {
    "encoder_options": {"width": 16, "depth": 2, "heads": 2, "patch": 4, "activation_checkpointing": True},
    "denoiser_options": {"width": 8, "num_features": 2, "render_downsample": 2, "render_samples": 2},
    "renderer_options": {"height": 8, "width": 8, "samples_per_ray": 4, "points_per_chunk": 64},
}


@pytest.fixture
def toy():
    """The experiment with a small model, small images, and 16 rays of each of them in the loss."""
    variant = paper_size.EXPERIMENT.variants["dit"]
    batches = partial(variants.tabletop_batches, replace(paper_size.SETTINGS, pixels=16, side=8))
    small = replace(variant, build=partial(variant.build, **TOY_SIZE), batches=batches, batch_size=2)
    return replace(paper_size.EXPERIMENT, variants={"dit": small})


def test_the_model_has_the_size_of_the_released_code():
    with torch.device("meta"):
        model = paper_size.EXPERIMENT.variants["dit"].build_model()
    denoiser, renderer = model.denoiser, model.forward_model
    assert len(denoiser.encoder.blocks) == 28 and denoiser.encoder.norm.normalized_shape == (1152,)
    assert renderer.height // denoiser.encoder.patch[0] == 16, "256 patches"
    assert denoiser.field.head.in_features == 512 and denoiser.field.head.out_features == 1 + 3 + 64
    assert (denoiser.render_downsample, denoiser.render_samples, renderer.samples_per_ray) == (1, 32, 128)
    assert paper_size.SETTINGS.pixels == 576
    assert sum(w.numel() for w in model.parameters()) == 686_154_436
    assert denoiser.encoder.activation_checkpointing and renderer.points_per_chunk


def test_blocks_are_compiled_on_a_gpu_and_the_loss_is_not(toy, tmp_path, monkeypatch):
    options = []

    def train(self, model, training):
        options.append(dict(self.fit_options))
        return TrainingLog()

    programs = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **compile_options: programs.append(self))
    monkeypatch.setattr(Variant, "train", train)
    eager = {"compile": False}
    for device, fit_options, is_compiled in (("cuda", {}, True), ("cpu", {}, False), ("cuda", eager, False)):
        variant = replace(toy.variants["dit"], fit_options=fit_options)
        model = variant.build_model()
        variant.train(model, Training(1, None, 2, 0, None, torch.device(device), {}))
        parts = [*model.denoiser.encoder.blocks, model.denoiser.field]
        assert programs == is_compiled * parts
        programs.clear()
    assert options == 3 * [eager]


def test_the_command_times_a_training(toy, tmp_path, monkeypatch):
    logs = []
    train = Variant.train

    def logged_train(self, model, training):
        logs.append(train(self, model, training))
        return logs[-1]

    monkeypatch.setattr(Variant, "train", logged_train)
    monkeypatch.setattr(command_line, "find_experiment", lambda name: toy)
    words = "paper_size time dit --batch-size 1 --windows 3 --window 1 --eager --out"
    command_line.main([*words.split(), str(tmp_path)])
    assert [log.steps for log in logs] == [timing.WARMUP_STEPS + 3 + 1]
    assert [path.name for path in tmp_path.iterdir()] == ["time_dit_1_batch_1_fp32_eager.json"], "no weights, no state"
    record = read_json(tmp_path / "time_dit_1_batch_1_fp32_eager.json")
    assert not record["compiled"] and record["command"].endswith("--windows 3 --window 1 --eager")
    rates = record["signals_a_second_of_windows"]
    assert len(rates) == 3 and sorted(rates)[1] == record["signals_a_second"] > 0
    assert record["losses"] == logs[0].curve["loss"] and len(record["losses"]) == 9
    assert "hardware_share" not in record and record["gpu_minutes"] == 0, "a CPU, whose peak is unknown"


def test_each_of_several_processes_draws_its_rows_and_one_of_them_writes(toy, tmp_path, monkeypatch):
    """The batch is that of the variant in each process. The clock counts its readings."""
    clock, rows = iter(range(100)), slice(2, 4)

    def train(self, model, training):
        batch = self.batches(training.device, training.batch_size)
        for _ in range(training.steps):
            assert len(batch.draw_rows(torch.Generator().manual_seed(0), rows)["target"]) == 2
        return TrainingLog(curve={"loss": [1.0]})

    monkeypatch.setattr(Variant, "train", train)
    monkeypatch.setattr(timing, "num_processes", lambda: 2)
    monkeypatch.setattr(timing, "is_main_process", lambda: False)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(next(clock)))
    record = timing.time_training(toy, "dit", tmp_path, windows=2, window=2)
    assert record["batch"] == 4 and record["processes"] == 2
    assert record["signals_a_second"] == 2 * 4 / 2, "a reading of the clock for each step"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_batch_that_the_processes_cannot_share_is_refused(batch_size, toy, tmp_path, monkeypatch):
    monkeypatch.setattr(timing, "num_processes", lambda: 2)
    with pytest.raises(ValueError, match=f"--batch-size {batch_size}: wanted a multiple of 2, one share for each"):
        timing.time_training(toy, "dit", tmp_path, batch_size=batch_size, windows=1, window=1)


class Layers(nn.Module):
    """A model for `count_teraflops`: the layers map the context to the target, at time 0.5."""

    def __init__(self, layers, takes_time=False):
        super().__init__()
        self.layers, self.takes_time = layers, takes_time

    def sample_time_and_noise(self, target, generator):
        return (torch.full((len(target),), 0.5),)

    def forward(self, context, target, t):
        return {"loss": (self.layers(context, *[t] * self.takes_time) - target).square().mean()}


def count_operations(model, context, target):
    """The operations of the forward pass and of a step, for one signal."""
    batch = {"context": torch.ones(4, *context), "target": torch.ones(4, *target)}
    counts = timing.count_teraflops(model, lambda generator: batch, slice(4), CPU, False)
    return round(counts["teraflop_forward"] * 1e12), round(counts["teraflop_step"] * 1e12)


def test_operations_of_a_transformer_are_counted_by_hand():
    """Attention counts on a CPU, too. With activation checkpointing each block has one more forward pass."""
    patches, width, depth = 16, 8, 3
    linear = 2 * patches * (3 + 1 + 4 + 4) * width**2 + 2 * 6 * width**2  # qkv, proj, two layers; the time
    attention = 2 * 2 * patches**2 * width  # queries x keys, weights x values
    others = 2 * 2 * patches * 12 * width + 2 * (12 * width + width**2 + 2 * width**2)  # patches; the time
    forward = depth * (linear + attention) + others
    steps = []
    for checkpointing in (False, True):
        net = DiT(3, 3, width, depth, heads=2, patch=2, activation_checkpointing=checkpointing)
        counted, step = count_operations(Layers(net, True), (3, 8, 8), (3, 8, 8))
        assert counted == forward
        steps.append(step)
    no_input_gradient = 2 * patches * 12 * width + 2 * 12 * width
    backward = 2 * (forward - depth * attention) + depth * 5 / 2 * attention - no_input_gradient  # scores again
    assert steps[0] == forward + backward
    assert steps[1] - steps[0] == depth * (linear + attention)


def test_operations_of_a_linear_layer_are_counted():
    """For one signal of a batch: two operations for a weight; the backward pass has twice as many."""
    layers = nn.Sequential(nn.Linear(5, 7, bias=False), nn.Linear(7, 3, bias=False))
    forward = 2 * (5 * 7 + 7 * 3)
    step = forward + 2 * forward - 2 * 5 * 7  # no gradient of the input
    assert count_operations(Layers(layers), (5,), (3,)) == (forward, step)


def test_the_share_of_the_peak_follows_from_the_rate(monkeypatch):
    record = {"precision": "tf32", "signals_a_second": 40.0, "processes": 2}
    record |= {"teraflop_forward": 2.0, "teraflop_step": 8.0}
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    share = timing.share_of_peak(record, torch.device("cuda"))
    assert share["model_share"] == pytest.approx(20 * 6 / 494.7)
    assert share["hardware_share"] == pytest.approx(20 * 8 / 494.7)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "another GPU")
    assert timing.share_of_peak(record, torch.device("cuda")) == {}
