"""Every process computes on a device of its own, and nothing needs what a device lacks."""

import ast
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch.utils._python_dispatch import TorchDispatchMode

from fwdiff_lite import devices
from fwdiff_lite.experiments import __main__ as command_line
from fwdiff_lite.experiments import declaration, gan_inversion, harness, motion
from fwdiff_lite.experiments.gan_inversion.variants import build_generator
from fwdiff_lite.experiments.inverse_graphics import evaluation, variants
from fwdiff_lite.problems.gan_inversion import portraits
from fwdiff_lite.problems.inverse_graphics import cameras, flatland, tabletop, volume
from fwdiff_lite.problems.motion import scenes as motion_scenes
from fwdiff_lite.problems.toy import projections
from fwdiff_lite.training import TrainingLog, fit

PACKAGE = Path(devices.__file__).parent
LAUNCHED = ("LOCAL_RANK", "RANK", "WORLD_SIZE", "ACCELERATE_USE_CPU")


@pytest.fixture
def four_gpus(monkeypatch):
    """A stand-in for one process of four on a host with four GPUs: `four_gpus(rank)` makes it that process."""

    def launch(rank: int) -> torch.device:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "stand-in")
        monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)  # commands turn it on
        for name, value in zip(LAUNCHED, (rank, rank, 4, "false"), strict=True):
            monkeypatch.setenv(name, str(value))
        return torch.device("cuda", rank)

    return launch


class DeviceAsked(Exception):
    """Carries the device that a command asked for."""


def refuse(device):
    raise DeviceAsked(torch.device(device))


class Textures:
    to = staticmethod(refuse)


TRAIN_COMMANDS = {
    "motion": lambda folder: harness.train(motion.EXPERIMENT, "warp_1", folder, minutes=1),
    "inverse graphics": lambda folder: harness.train(evaluation.EXPERIMENT, "unet", folder, minutes=1),
    "GAN inversion": lambda folder: harness.train(gan_inversion.EXPERIMENT, "wplus", folder, minutes=1),
}


@pytest.mark.parametrize("rank", range(4))
@pytest.mark.parametrize("command", TRAIN_COMMANDS)
def test_each_of_four_processes_draws_its_data_on_its_own_gpu(command, rank, four_gpus, monkeypatch, tmp_path):
    monkeypatch.setattr(motion_scenes, "make_textures", lambda *args: Textures())
    monkeypatch.setattr(tabletop, "batches", lambda *args, device, **options: refuse(device))
    monkeypatch.setattr(harness, "load_model", lambda experiment, name, folder, device: refuse(device))
    (tmp_path / "generator.safetensors").touch()
    wanted = four_gpus(rank)
    with pytest.raises(DeviceAsked) as error:
        TRAIN_COMMANDS[command](tmp_path)
    assert error.value.args[0] == wanted


def test_without_a_launcher_the_current_gpu_is_taken_and_without_a_gpu_the_cpu(four_gpus, monkeypatch):
    assert devices.default_device() == torch.device("cpu"), "the tests run on a CPU"
    four_gpus(0)
    monkeypatch.delenv("LOCAL_RANK")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    assert devices.default_device() == torch.device("cuda", 3)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert devices.default_device() == torch.device("cpu")


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_devices_are_chosen_in_one_place(path):
    """Elsewhere "cuda" only stands in comparisons, as in device.type == "cuda"."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    compared = {
        id(part) for node in ast.walk(tree) if isinstance(node, ast.Compare) for part in [node.left, *node.comparators]
    }
    named = [node for node in ast.walk(tree) if getattr(node, "value", None) == "cuda" and id(node) not in compared]
    lines = [node.lineno for node in named]
    assert not lines or path.name == "devices.py", f"lines {lines}: ask fwdiff_lite.devices.default_device()"


@pytest.mark.parametrize("command", TRAIN_COMMANDS)
def test_only_the_main_process_writes_files(command, four_gpus, monkeypatch, tmp_path):
    def trained(*args, **options):
        return TrainingLog(steps=1, seconds=1.0, curve={"loss": [1.0]})

    monkeypatch.setattr(declaration, "fit", trained)
    monkeypatch.setattr(harness, "default_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(harness, "load_model", lambda *arguments: build_generator(0))
    monkeypatch.setattr(portraits, "make_image_sampler", lambda *arguments: lambda n, generator: None)
    (tmp_path / "generator.safetensors").touch()
    for name, value in zip(LAUNCHED, (1, 1, 2, "true"), strict=True):
        monkeypatch.setenv(name, str(value))
    TRAIN_COMMANDS[command](tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["generator.safetensors"]
    monkeypatch.setenv("RANK", "0")
    TRAIN_COMMANDS[command](tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


def test_a_command_that_cannot_share_its_work_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit):
        command_line.main(["gan_inversion", "train", "generator", "--steps", "1", "--out", str(tmp_path)])
    assert "generator runs in one process: start it without `accelerate launch`" in capsys.readouterr().err


# --- Apple's MPS ---


@pytest.fixture
def apple(monkeypatch):
    """A stand-in for a Mac: accelerate finds MPS there, where no tensor can be made here."""

    def forget():
        for state in (PartialState, AcceleratorState):
            state._reset_state()
        GradientState._reset_state()

    forget()
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_built", lambda: True)
    yield
    monkeypatch.undo()
    forget()


def test_fit_trains_on_the_cpu_of_a_mac(apple):
    from accelerate import Accelerator

    assert Accelerator().device.type == "mps", "the control: accelerate would take it"
    PartialState._reset_state()
    AcceleratorState._reset_state()
    model = projections.build_diffusion(2, width=8, depth=1)
    done = fit(model, projections.infinite_batches(projections.make_prior(2), 8), steps=2, progress=False)
    assert done.steps == 2 and {w.device.type for w in model.parameters()} == {"cpu"}


def test_without_bfloat16_nothing_is_asked_of_autocast(monkeypatch):
    """torch 2.4 has no autocast for MPS, enabled or not."""
    monkeypatch.setattr(torch, "autocast", lambda *args, **options: pytest.fail("autocast was asked"))
    with devices.autocast_bf16(torch.device("mps"), False):
        pass


class NoFloat64(TorchDispatchMode):
    """A stand-in for a device that has no float64."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else [out]:
            assert getattr(x, "dtype", None) != torch.float64, f"{func} made float64"
        return out


def graphics(variant):
    settings = replace(variants.SETTINGS[variant], side=16)
    model = variants.build_model(settings, width=16)
    pixels = 16 if settings.pixels else None
    return model, tabletop.batches(2, 1, pixels, side=16)(torch.Generator().manual_seed(0))


def rows_of_pixels():
    return flatland.build_model(), flatland.batches(2)(torch.Generator().manual_seed(0))


MODELS = {"05": rows_of_pixels} | {
    variant: lambda variant=variant: graphics(variant) for variant in ("unet", "dit", "view_space")
}


@pytest.mark.parametrize("name", MODELS)
def test_models_of_scenes_need_no_float64_where_there_is_none(name, monkeypatch):
    model, batch = MODELS[name]()
    t, noise = model.sample_time_and_noise(batch["target"], torch.Generator().manual_seed(0))
    with pytest.raises(AssertionError, match="made float64"), NoFloat64():  # the control: elsewhere it is used
        model(t=t, noise=noise, **batch)
    for module in (cameras, volume):
        monkeypatch.setattr(module, "widest_float", lambda device: torch.float32)
    with NoFloat64():
        losses = model(t=t, noise=noise, **batch)
        losses["loss"].backward()
    assert losses["loss"].isfinite()
    assert devices.widest_float(torch.device("mps")) == torch.float32
    assert devices.widest_float(torch.device("cuda")) == devices.widest_float(torch.device("cpu")) == torch.float64
