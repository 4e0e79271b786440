"""Trains the models of 3-D scenes within a budget of minutes. The same command again resumes an interrupted training.

    python -m fwdiff_lite.experiments.inverse_graphics.train unet --minutes 13 --out build/inverse_graphics
    accelerate launch -m fwdiff_lite.experiments.inverse_graphics.train unet --minutes 13     # on all devices
    python -m fwdiff_lite.experiments.inverse_graphics.train unet --minutes 13 --data FOLDER

The first argument is the variant, one of VARIANTS. Tabletop scenes are rendered on the device during training, so there
is no data set, and no scene appears twice. With --data, frames and cameras come from a folder in RealEstate10K's format
(fwdiff_lite/datasets/realestate10k.py). Every clip has its own unit of length; --near-far is given in this unit. A clip
shows an unbounded scene: rays begin at the near plane, and coordinates are contracted. The module real_clips evaluates
models that were trained on clips.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fwdiff_lite.command_line import positive_int
from fwdiff_lite.datasets import realestate10k, view_sampler
from fwdiff_lite.datasets.posed_clips import Clip
from fwdiff_lite.devices import default_device, is_main_process, num_processes
from fwdiff_lite.diffusion import ForwardDiffusion, ForwardRegression
from fwdiff_lite.problems.inverse_graphics import tabletop
from fwdiff_lite.problems.inverse_graphics.pixelnerf import COND_CHANNELS, SceneDenoiser
from fwdiff_lite.problems.inverse_graphics.viewspace import ViewDenoiser, identity
from fwdiff_lite.problems.inverse_graphics.volume import VolumeRenderer
from fwdiff_lite.schedule import ShiftedCosineSchedule
from fwdiff_lite.storage.checkpoints import read_manifest
from fwdiff_lite.storage.files import read_json, write_json
from fwdiff_lite.storage.provenance import provenance
from fwdiff_lite.training import INTERRUPTED, TrainingLog, fit

COMMAND = "python -m fwdiff_lite.experiments.inverse_graphics.train"
SIDE = 64  # pixels along each side of an image
SAMPLES_PER_RAY, NUM_FREQS = 32, 6  # of the volume renderer; of the positional encoding of coordinates
CONTEXTS, PIXELS = 1, 320  # context images, at most; rays of each target and novel image in the loss
BATCH_SIZE = 128  # scenes a step: with 64, an H100 waits for Python a quarter of the time
LEARNING_RATE = 5e-4
NEAR_FAR = (1.0, 100.0)  # the near and far plane of a clip's scenes, in the clip's own unit
ENCODER_OPTIONS = {
    "unet": {"widths": (64, 128, 192, 256), "num_blocks": 1, "num_attention_levels": 2},
    "dit": {"width": 256, "depth": 5, "heads": 4, "patch": 4},
}


@dataclass(frozen=True)
class Variant:
    """The settings of a model and its training that differ between variants. The defaults are those of the full model.

    model_class: ForwardDiffusion, or ForwardRegression for the deterministic baseline
    denoiser_class, encoder: the denoiser and the backbone of its encoder
    conditioning: the channels of the deterministic render that condition the target's encoder (from
        pixelnerf.COND_CHANNELS)
    novel_weight: the weight of the novel loss
    pixels: rays of each target and novel image in the loss; None: all pixels
    context_dropout: the share of examples whose context is masked out
    seed: of the initial weights and of all random draws of the training
    """

    model_class: type[ForwardDiffusion] = ForwardDiffusion
    denoiser_class: type[SceneDenoiser] = SceneDenoiser
    encoder: str = "unet"
    conditioning: tuple[str, ...] = COND_CHANNELS
    novel_weight: float = 1.0
    pixels: int | None = PIXELS
    context_dropout: float = 0.0
    seed: int = 0


VARIANTS = {
    "unet": Variant(),  # the full model
    "reseeded": Variant(seed=1),  # the full model with another seed: the variation from training to training
    "dit": Variant(encoder="dit"),
    "no_novel": Variant(novel_weight=0.0),
    "no_render": Variant(conditioning=()),
    "no_features": Variant(conditioning=("colour", "depth")),
    "no_depth": Variant(conditioning=("colour", "features")),
    "around": Variant(),  # the full model, to be trained with up to two context images (--contexts 2)
    "guided": Variant(context_dropout=0.15),
    "deterministic": Variant(model_class=ForwardRegression),
    # view-space diffusion has no scene, so it cannot render a novel view
    "view_space": Variant(denoiser_class=ViewDenoiser, novel_weight=0.0, pixels=None),
    "unconditional": Variant(conditioning=(), context_dropout=1.0),
}


def build_model(
    variant: str,
    side: int = SIDE,
    samples_per_ray: int = SAMPLES_PER_RAY,
    width: int = 64,
    near_far: Sequence[float] | None = None,
    **options,
) -> ForwardDiffusion:
    """The model of a variant, with initial weights.

    width: of the field's network and of the encoder's output
    near_far: None for tabletop scenes. For unbounded scenes: the near and far plane; the first context camera is the
        origin of the world.
    options: arguments of the encoder, which replace those of ENCODER_OPTIONS
    ValueError if the variant is unknown, or unless 0 < near < far.
    """
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}: choose one of {', '.join(VARIANTS)}")
    config = VARIANTS[variant]
    low, high, near = tabletop.LOW, tabletop.HIGH, 0.0
    if near_far is not None:
        near, far = near_far
        low, high = (-far,) * 3, (far,) * 3
        if not 0 < near < far:
            raise ValueError(f"near and far are {near:g} and {far:g}: wanted 0 < near < far")
    torch.manual_seed(config.seed)
    renderer = VolumeRenderer(
        low, high, height=side, width=side, samples_per_ray=samples_per_ray, supersampling=2, near=near
    )
    options = ENCODER_OPTIONS[config.encoder] | options
    denoiser = config.denoiser_class(
        renderer,
        config.encoder,
        width,
        num_freqs=NUM_FREQS,
        encoder_channels=width,
        encoder_options=options,
        conditioning=config.conditioning,
    )
    forward_model = identity if config.denoiser_class is ViewDenoiser else renderer
    # shifted with the resolution: after downsampling to SIDE pixels, the signal-to-noise ratio is always the same
    schedule = ShiftedCosineSchedule(0.5 * SIDE / side)
    return config.model_class(denoiser, forward_model, schedule, config.novel_weight)


def run_name(variant: str, side: int = SIDE) -> str:
    """The file name, without suffix, of a variant's training: the variant, and the image side unless it is SIDE."""
    return variant if side == SIDE else f"{variant}_{side}"


def load_state(variant: str, weights: dict[str, Tensor], **options) -> ForwardDiffusion:
    """The model of a variant with the trained weights of its denoiser, of any precision; options: of `build_model`."""
    model = build_model(variant, **options)
    model.denoiser.load_state_dict({key: value.float() for key, value in weights.items()})
    return model.eval()


def compile_networks(model: ForwardDiffusion) -> None:
    """Compiles the encoder and the field's network, for sampling on a GPU. They take most of the time."""
    model.denoiser.encoder.compile(dynamic=False)
    model.denoiser.field.compile(dynamic=False)


def train(
    model: ForwardDiffusion,
    folder: Path,
    name: str,
    batch_size: int = BATCH_SIZE,
    pixels: int | None = PIXELS,
    contexts: int = CONTEXTS,
    context_dropout: float = 0.0,
    seed: int = 0,
    jobs_per_gpu: int = 1,
    command: str = "",
    parent_run: dict | None = None,
    options: dict[str, Any] | None = None,
    clips: list[Clip] | None = None,
    frame_gap: tuple[int, int] = view_sampler.FRAME_GAP,
    resume_config: dict[str, Any] | None = None,
    **budget,
) -> TrainingLog:
    """Trains a model within a budget of `steps` or `seconds`, which includes earlier calls that this call resumes.

    Writes to the folder: NAME.safetensors, the weights in half precision; NAME.json, the record with losses and
    provenance; NAME.state, the checkpoint to resume from.
    pixels, contexts, context_dropout: as in tabletop.batches
    seed: of all random draws of the training
    jobs_per_gpu: the number of trainings that share the device
    command, parent_run, options: for the record: the command, the manifest entry of the initial weights, and the
        arguments of build_model
    clips: clips to train on in place of tabletop scenes; frame_gap: the least and the largest number of frames from
        context to target
    resume_config: the settings, as JSON values, that must be the same when a training is resumed
    ValueError if they are not.
    """
    config_path = folder / f"{name}.resume_config.json"
    resume_config, previous_config = resume_config or {}, read_json(config_path)
    if (folder / f"{name}.state").exists() and previous_config != resume_config:
        raise ValueError(
            f"{folder / name}.state was trained with {previous_config}, not with {resume_config}: "
            "delete it, or name another --out"
        )
    if is_main_process():
        write_json(config_path, resume_config)
    device = default_device()
    on_gpu = device.type == "cuda"
    torch.backends.cudnn.benchmark = on_gpu  # all images have one size: worth searching for the fastest convolution
    side = model.denoiser.renderer.height
    if clips is None:
        batch = tabletop.batches(
            batch_size,
            contexts,
            pixels,
            side=side,
            context_dropout=context_dropout,
            device=device,
            compile=on_gpu,
        )
    else:
        batch = view_sampler.batches(clips, batch_size, frame_gap, pixels, side, num_threads=os.cpu_count() or 1)
    log = fit(
        model,
        batch,
        learning_rate=LEARNING_RATE,
        bf16=on_gpu,
        compile=on_gpu,
        checkpoint=folder / f"{name}.state",
        checkpoint_every=200,
        progress=False,
        seed=seed,
        **budget,
    )
    if log.interrupted or not is_main_process():
        return log
    weights = {key: value.half().contiguous() for key, value in model.denoiser.state_dict().items()}
    save_file(weights, folder / f"{name}.safetensors")
    record = provenance(command) | {
        "steps": log.steps,
        "batch": batch_size,
        "minutes": log.seconds / 60,
        "gpu_minutes": log.seconds / 60 * num_processes() / jobs_per_gpu,
        "seed": seed,
        "before": parent_run or {},
        "options": options or {},
    }
    write_json(folder / f"{name}.json", record | {"curve": {key: values[::20] for key, values in log.curve.items()}})
    return log


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of every command that can read clips."""
    parser.add_argument("--side", type=positive_int, default=SIDE, help="pixels along each side of an image")
    parser.add_argument("--data", type=Path, help="a folder in RealEstate10K's format")
    gap_help = "least and largest number of frames from context to target; default: 100 180"
    parser.add_argument("--frame-gap", type=positive_int, nargs=2, metavar=("MIN", "MAX"), help=gap_help)
    actions, error_help = realestate10k.ON_ERROR, "stop at an invalid clip or frame, or skip it; default: %(default)s"
    parser.add_argument("--on-error", choices=actions, default=actions[0], help=error_help)
    parser.add_argument(
        "--skip-pose-check", action="store_true", help="do not check frames and poses of the clips again"
    )


def read_data(parser: argparse.ArgumentParser, options: argparse.Namespace) -> list[Clip]:
    """Reads the clips in --data and prints what was skipped; exits with a one-line error if they cannot be used."""
    options.frame_gap = tuple(options.frame_gap or view_sampler.FRAME_GAP)
    if options.out.resolve() == options.data.resolve():
        parser.error("--out and --data are one folder: the output would be read as clips")
    if options.frame_gap[0] > options.frame_gap[1]:
        parser.error("--frame-gap is the least and the largest number of frames: give the smaller number first")
    check_poses = not options.skip_pose_check
    try:
        clips, warnings = realestate10k.read_folder(
            options.data, options.frame_gap, options.on_error, check_poses, options.side
        )
    except ValueError as error:
        parser.error(str(error))
    print("\n".join([*warnings, f"{options.data}: {len(clips)} clips"]), flush=True)
    return clips


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train a model of 3-D scenes.")
    parser.add_argument("variant", choices=tuple(VARIANTS))
    parser.add_argument("--out", type=Path, help="default: build/inverse_graphics; with --data: build/realestate10k")
    parser.add_argument("--minutes", type=float, default=13.0, help="budget of training time")
    parser.add_argument("--steps", type=positive_int, help="budget of training steps, beside that of minutes")
    parser.add_argument("--batch", type=positive_int, default=BATCH_SIZE, help="scenes in a step, over all devices")
    parser.add_argument("--contexts", type=positive_int, default=CONTEXTS, help="context images, at most")
    parser.add_argument(
        "--init-from", type=Path, help="a .safetensors file of an earlier training: the initial weights"
    )
    parser.add_argument("--jobs-per-gpu", type=positive_int, default=1, help="trainings that share the device")
    add_data_arguments(parser)
    near_far_help = "with --data: the near and far plane; default: 1 100"
    parser.add_argument("--near-far", type=float, nargs=2, metavar=("NEAR", "FAR"), help=near_far_help)
    options = parser.parse_args()
    variant, config = options.variant, VARIANTS[options.variant]
    if options.data and options.contexts > 1:
        parser.error("with --data, a context is one image")
    if options.data and (config.denoiser_class is not SceneDenoiser or config.context_dropout):
        parser.error(
            f"{variant} cannot be trained on --data: choose a variant with a scene and without context dropout"
        )
    if options.init_from and not options.init_from.is_file():
        parser.error(f"--init-from: there is no file {options.init_from}")
    if not options.data and (options.near_far or options.frame_gap or options.skip_pose_check):
        parser.error("--near-far, --frame-gap and --skip-pose-check need --data")
    options.out = options.out or Path("build", "realestate10k" if options.data else "inverse_graphics")
    arguments = f"--minutes {options.minutes:g} --batch {options.batch} --contexts {options.contexts}"
    arguments += f" --steps {options.steps}" if options.steps else ""
    arguments += f" --side {options.side}" if options.side != SIDE else ""
    arguments += f" --init-from {options.init_from.name}" if options.init_from else ""
    model_options, data_options = {"side": options.side}, {}
    resume_config = {"contexts": options.contexts, "init_from": options.init_from and str(options.init_from.resolve())}
    if options.data:
        data_options = {"clips": read_data(parser, options), "frame_gap": options.frame_gap}
        near, far = model_options["near_far"] = options.near_far or NEAR_FAR
        min_gap, max_gap = options.frame_gap
        arguments += f" --data {options.data.name} --frame-gap {min_gap} {max_gap} --near-far {near:g} {far:g}"
        resume_config |= {
            "data": str(options.data.resolve()),
            "frame_gap": [min_gap, max_gap],
            "near_far": [near, far],
        }
    try:
        if options.init_from:
            model = load_state(variant, load_file(options.init_from), **model_options)
        else:
            model = build_model(variant, **model_options)
    except (ValueError, SafetensorError) as error:
        parser.error(str(error))
    options.out.mkdir(parents=True, exist_ok=True)
    log = train(
        model,
        options.out,
        run_name(variant, options.side),
        options.batch,
        pixels=config.pixels,
        contexts=options.contexts,
        context_dropout=config.context_dropout,
        seed=config.seed,
        jobs_per_gpu=options.jobs_per_gpu,
        command=f"{COMMAND} {variant} {arguments}",
        parent_run=read_manifest().get(options.init_from.name) if options.init_from else None,
        options=model_options,
        resume_config=resume_config,
        steps=options.steps,
        seconds=60 * options.minutes,
        **data_options,
    )
    if log.interrupted:
        raise SystemExit(INTERRUPTED)
    if is_main_process():
        print(f"{variant}: {log.steps} steps of {options.batch} in {log.seconds / 60:.1f} minutes", flush=True)


if __name__ == "__main__":
    main()
