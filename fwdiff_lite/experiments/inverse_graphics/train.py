"""Trains the models of 3-D scenes, with a budget of minutes; a call that is cut off is gone on with.

    python -m fwdiff_lite.experiments.inverse_graphics.train unet --minutes 13 --out build/inverse_graphics
    accelerate launch -m fwdiff_lite.experiments.inverse_graphics.train unet --minutes 13     # on all devices
    python -m fwdiff_lite.experiments.inverse_graphics.train unet --minutes 13 --data FOLDER

Scenes of the tabletop are traced on the device as they are needed, so there is no data set and no scene is seen twice.
With --data, frames and cameras come from a folder in RealEstate10K's format (fwdiff_lite/datasets/realestate10k.py).
Every clip has its own unit of length, in which --ends (near and far) are told, and there is something all around: rays
begin at the near end, and coordinates are contracted. `evaluate` judges what is trained so.
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
from fwdiff_lite.datasets import realestate10k
from fwdiff_lite.devices import default_device, is_main_process, num_processes
from fwdiff_lite.diffusion import ForwardDiffusion, ForwardRegression
from fwdiff_lite.problems.inverse_graphics import tabletop
from fwdiff_lite.problems.inverse_graphics.pixelnerf import TOLD, SceneDenoiser
from fwdiff_lite.problems.inverse_graphics.viewspace import ViewDenoiser, identity
from fwdiff_lite.problems.inverse_graphics.volume import VolumeRenderer
from fwdiff_lite.schedule import ShiftedCosineSchedule
from fwdiff_lite.storage.checkpoints import read_manifest
from fwdiff_lite.storage.files import read_json, write_json
from fwdiff_lite.storage.provenance import provenance
from fwdiff_lite.training import INTERRUPTED, TrainingLog, fit

COMMAND = "python -m fwdiff_lite.experiments.inverse_graphics.train"
SIDE, SAMPLES, FREQUENCIES = 64, 32, 6  # pixels along a side of an image; samples of a ray; waves of coordinates
CONTEXTS, PIXELS = 1, 320  # images in the context, at most; rays of each target and novel image
BATCH = 128  # scenes a step: with half of them an H100 waits for Python for a quarter of the time
RATE = 5e-4
ENDS = (1.0, 100.0)  # near and far of a clip's scenes, in its own unit
ENCODERS = {
    "unet": {"widths": (64, 128, 192, 256), "blocks": 1, "attention": 2},
    "dit": {"width": 256, "depth": 5, "heads": 4, "patch": 4},
}


@dataclass(frozen=True)
class Arm:
    """A model and its training, as far as an arm may differ from the full one.

    told: of the deterministic render (pixelnerf.TOLD); pixels: the losses' rays of each image, None: all
    empty: the share of examples whose context is dropped; seed: of first weights and of all that training draws
    """

    kind: type[ForwardDiffusion] = ForwardDiffusion
    denoiser: type[SceneDenoiser] = SceneDenoiser
    encoder: str = "unet"
    told: tuple[str, ...] = TOLD
    novel_weight: float = 1.0
    pixels: int | None = PIXELS
    empty: float = 0.0
    seed: int = 0


ARMS = {
    "unet": Arm(),  # the full model
    "reseeded": Arm(seed=1),  # the full model once more: how far apart two trainings are
    "dit": Arm(encoder="dit"),
    "no_novel": Arm(novel_weight=0.0),
    "no_render": Arm(told=()),
    "no_features": Arm(told=("colour", "depth")),
    "no_depth": Arm(told=("colour", "features")),
    "around": Arm(),  # unet with up to two images in the context (--contexts 2)
    "guided": Arm(empty=0.15),
    "deterministic": Arm(kind=ForwardRegression),
    "view_space": Arm(denoiser=ViewDenoiser, novel_weight=0.0, pixels=None),  # what is no scene has no other view
    "unconditional": Arm(told=(), empty=1.0),
}


def untrained(
    arm: str,
    side: int = SIDE,
    samples: int = SAMPLES,
    width: int = 64,
    ends: Sequence[float] | None = None,
    **options,
) -> ForwardDiffusion:
    """An arm's model with fresh weights; options: of its encoder, in place of those in ENCODERS.

    ends: None for a tabletop; near and far for scenes that are all around the context's camera, which is their origin
    ValueError on an unknown arm, or where not 0 < near < far.
    """
    if arm not in ARMS:
        raise ValueError(f"unknown arm {arm!r}: choose one of {', '.join(ARMS)}")
    made = ARMS[arm]
    low, high, near = tabletop.LOW, tabletop.HIGH, 0.0
    if ends is not None:
        near, far = ends
        low, high = (-far,) * 3, (far,) * 3
        if not 0 < near < far:
            raise ValueError(f"near and far are {near:g} and {far:g}: wanted 0 < near < far")
    torch.manual_seed(made.seed)
    renderer = VolumeRenderer(low, high, height=side, width=side, samples=samples, antialias=2, near=near)
    options = ENCODERS[made.encoder] | options
    more = {"frequencies": FREQUENCIES, "channels": width, "options": options, "told": made.told}
    denoiser = made.denoiser(renderer, made.encoder, width, **more)
    forward_model = identity if made.denoiser is ViewDenoiser else renderer
    schedule = ShiftedCosineSchedule(0.5 * SIDE / side)  # the noise on what is large is the same in finer images
    return made.kind(denoiser, forward_model, schedule, made.novel_weight)


def named(arm: str, side: int = SIDE) -> str:
    """What the files of an arm are called: by its name, and by the side of its images where that is another one."""
    return arm if side == SIDE else f"{arm}_{side}"


def with_weights(arm: str, weights: dict[str, Tensor], **options) -> ForwardDiffusion:
    """An arm's model with weights that a training left, in whatever precision; options: those of `untrained`."""
    model = untrained(arm, **options)
    model.denoiser.load_state_dict({key: value.float() for key, value in weights.items()})
    return model.eval()


def compile_networks(model: ForwardDiffusion) -> None:
    """Compiles the two networks, for sampling on a GPU: what is between them is small."""
    model.denoiser.encoder.compile(dynamic=False)
    model.denoiser.field.compile(dynamic=False)


def train(
    model: ForwardDiffusion,
    folder: Path,
    name: str,
    size: int = BATCH,
    pixels: int | None = PIXELS,
    contexts: int = CONTEXTS,
    empty: float = 0.0,
    seed: int = 0,
    sharing: int = 1,
    command: str = "",
    before: dict | None = None,
    options: dict[str, Any] | None = None,
    clips: list[realestate10k.Clip] | None = None,
    distance: tuple[int, int] = realestate10k.DISTANCE,
    asked: dict[str, Any] | None = None,
    **budget,
) -> TrainingLog:
    """Trains within a budget of `steps` or `seconds`, those of earlier calls included.

    Leaves weights in half precision, losses and commit in the folder, and the state to go on from.
    pixels, contexts, empty: as of tabletop.batches; seed: of what training draws
    sharing: how many trainings have the device at once, for the record, as are the command, what was done `before`, and
        the `options` that the model was made with
    clips: to train on, with context and target at that distance, in place of tabletop scenes
    asked: what a training that is gone on with must have been asked for, too, as JSON knows it; a ValueError if not
    """
    kept = folder / f"{name}.asked.json"
    asked, earlier = asked or {}, read_json(kept)
    if (folder / f"{name}.state").exists() and earlier != asked:
        raise ValueError(
            f"{folder / name}.state was trained with {earlier}, not with {asked}: delete it, or name another --out"
        )
    if is_main_process():
        write_json(kept, asked)
    device = default_device()
    fast = device.type == "cuda"
    torch.backends.cudnn.benchmark = fast  # all images are of one size: worth trying which convolution is the fastest
    side = model.denoiser.renderer.height
    if clips is None:
        batch = tabletop.batches(size, contexts, pixels, side=side, empty=empty, device=device, compile=fast)
    else:
        batch = realestate10k.batches(clips, size, distance, pixels, side, workers=os.cpu_count() or 1)
    done = fit(
        model,
        batch,
        learning_rate=RATE,
        bf16=fast,
        compile=fast,
        checkpoint=folder / f"{name}.state",
        checkpoint_every=200,
        progress=False,
        seed=seed,
        **budget,
    )
    if done.interrupted or not is_main_process():
        return done
    weights = {key: value.half().contiguous() for key, value in model.denoiser.state_dict().items()}
    save_file(weights, folder / f"{name}.safetensors")
    record = provenance(command) | {
        "steps": done.steps,
        "batch": size,
        "minutes": done.seconds / 60,
        "gpu_minutes": done.seconds / 60 * num_processes() / sharing,
        "seed": seed,
        "before": before or {},
        "options": options or {},
    }
    write_json(folder / f"{name}.json", record | {"curve": {key: values[::20] for key, values in done.curve.items()}})
    return done


def data_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of every command that may read clips."""
    parser.add_argument("--side", type=positive_int, default=SIDE, help="pixels along a side of an image")
    parser.add_argument("--data", type=Path, help="a folder in RealEstate10K's format")
    parser.add_argument("--distance", type=positive_int, nargs=2, help="of context and target, in frames; default: 100 180")
    parser.add_argument("--bad", choices=realestate10k.BAD, default="refuse", help="what to do with what is bad in it")
    parser.add_argument("--unchecked", action="store_true", help="where frames and poses were checked before")


def read_data(parser: argparse.ArgumentParser, options: argparse.Namespace) -> list[realestate10k.Clip]:
    """The clips that a command was given; says what was skipped of them, and ends in one line if they are no good."""
    options.distance = tuple(options.distance or realestate10k.DISTANCE)
    if options.out.resolve() == options.data.resolve():
        parser.error("--out and --data are one folder: what is written would be read as clips")
    if options.distance[0] > options.distance[1]:
        parser.error("--distance is at least and at most so many frames: give the smaller one first")
    look = not options.unchecked
    try:
        clips, told = realestate10k.read_folder(options.data, options.distance, options.bad, look, options.side)
    except ValueError as error:
        parser.error(str(error))
    print("\n".join([*told, f"{options.data}: {len(clips)} clips"]), flush=True)
    return clips


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train a model of 3-D scenes.")
    parser.add_argument("arm", choices=tuple(ARMS))
    parser.add_argument("--out", type=Path, help="default: build/inverse_graphics, with --data build/realestate10k")
    parser.add_argument("--minutes", type=float, default=13.0, help="of training")
    parser.add_argument("--steps", type=positive_int, help="of training, where they end before the minutes do")
    parser.add_argument("--batch", type=positive_int, default=BATCH, help="scenes a step, over all devices")
    parser.add_argument("--contexts", type=positive_int, default=CONTEXTS, help="images in the context, at most")
    parser.add_argument("--start", type=Path, help="weights to start from, that an earlier training left")
    parser.add_argument("--sharing", type=positive_int, default=1, help="how many trainings have the device at once")
    data_arguments(parser)
    parser.add_argument("--ends", type=float, nargs=2, help="with --data: near and far; default: 1 100")
    options = parser.parse_args()
    if options.data and options.contexts > 1:
        parser.error("with --data, a context is one image")
    if options.data and (ARMS[options.arm].denoiser is not SceneDenoiser or ARMS[options.arm].empty):
        parser.error("with --data, an arm makes scenes, and from a context")
    if options.start and not options.start.is_file():
        parser.error(f"there are no weights in {options.start} to start from")
    if not options.data and (options.ends or options.distance or options.unchecked):
        parser.error("--ends, --distance and --unchecked are for --data")
    options.out = options.out or Path("build", "realestate10k" if options.data else "inverse_graphics")
    budget = f"--minutes {options.minutes:g} --batch {options.batch} --contexts {options.contexts}"
    budget += f" --steps {options.steps}" if options.steps else ""
    budget += f" --side {options.side}" if options.side != SIDE else ""
    budget += f" --start {options.start.name}" if options.start else ""
    arm, kind, data = options.arm, {"side": options.side}, {}
    asked = {"contexts": options.contexts, "start": options.start and str(options.start.resolve())}
    if options.data:
        data = {"clips": read_data(parser, options), "distance": options.distance}
        kind["ends"] = options.ends or ENDS
        low, high = options.distance
        budget += f" --data {options.data.name} --distance {low} {high} --ends {kind['ends'][0]:g} {kind['ends'][1]:g}"
        asked |= {"data": str(options.data.resolve()), "distance": [low, high], "ends": list(kind["ends"])}
    try:
        model = with_weights(arm, load_file(options.start), **kind) if options.start else untrained(arm, **kind)
    except (ValueError, SafetensorError) as error:
        parser.error(str(error))
    options.out.mkdir(parents=True, exist_ok=True)
    done = train(
        model,
        options.out,
        named(arm, options.side),
        options.batch,
        pixels=ARMS[arm].pixels,
        contexts=options.contexts,
        empty=ARMS[arm].empty,
        seed=ARMS[arm].seed,
        sharing=options.sharing,
        command=f"{COMMAND} {options.arm} {budget}",
        before=read_manifest().get(options.start.name) if options.start else None,
        options=kind,
        asked=asked,
        steps=options.steps,
        seconds=60 * options.minutes,
        **data,
    )
    if done.interrupted:
        raise SystemExit(INTERRUPTED)
    if is_main_process():
        print(f"{options.arm}: {done.steps} steps of {options.batch} in {done.seconds / 60:.1f} minutes", flush=True)


if __name__ == "__main__":
    main()
