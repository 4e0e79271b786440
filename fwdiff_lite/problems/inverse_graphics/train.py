"""Trains the models of 3-D tabletop scenes, with a budget of minutes; a call that is cut off is gone on with.

    python -m fwdiff_lite.problems.inverse_graphics.train unet --minutes 13 --out build/inverse_graphics
    accelerate launch -m fwdiff_lite.problems.inverse_graphics.train unet --minutes 13     # on all devices

Scenes are traced on the device as they are needed, so there is no data set and no scene is seen twice.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fwdiff_lite.diffusion import ForwardDiffusion, ForwardRegression
from fwdiff_lite.files import write_json
from fwdiff_lite.pretrained import read_manifest
from fwdiff_lite.problems.inverse_graphics import tabletop
from fwdiff_lite.problems.inverse_graphics.pixelnerf import TOLD, SceneDenoiser
from fwdiff_lite.problems.inverse_graphics.viewspace import ViewDenoiser, identity
from fwdiff_lite.problems.inverse_graphics.volume import VolumeRenderer
from fwdiff_lite.schedule import ShiftedCosineSchedule
from fwdiff_lite.training import Fit, fit, origin

COMMAND = "python -m fwdiff_lite.problems.inverse_graphics.train"
SIDE, SAMPLES, FREQUENCIES = 64, 32, 6  # pixels along a side of an image; samples of a ray; waves of coordinates
CONTEXTS, PIXELS = 1, 320  # images in the context, at most; rays of each target and novel image
BATCH = 128  # scenes a step: with half of them an H100 waits for Python for a quarter of the time
RATE = 5e-4
ENCODERS = {
    "unet": {"widths": (64, 128, 192, 256), "blocks": 1, "attention": 2},
    "dit": {"width": 256, "depth": 5, "heads": 4, "patch": 4},
}


@dataclass(frozen=True)
class Arm:
    """A model and its training, as far as an arm may differ from the full one.

    told: of the deterministic render (pixelnerf.TOLD); pixels: the losses' rays of each image, None: all
    empty: the share of examples whose context is dropped
    """

    kind: type[ForwardDiffusion] = ForwardDiffusion
    denoiser: type[SceneDenoiser] = SceneDenoiser
    encoder: str = "unet"
    told: tuple[str, ...] = TOLD
    novel_weight: float = 1.0
    pixels: int | None = PIXELS
    empty: float = 0.0


ARMS = {
    "unet": Arm(),  # the full model
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
    arm: str, seed: int = 0, side: int = SIDE, samples: int = SAMPLES, width: int = 64, **options
) -> ForwardDiffusion:
    """An arm's model with fresh weights; options: of its encoder, in place of those in ENCODERS.

    ValueError on an unknown arm.
    """
    if arm not in ARMS:
        raise ValueError(f"unknown arm {arm!r}: choose one of {', '.join(ARMS)}")
    made = ARMS[arm]
    torch.manual_seed(seed)
    renderer = VolumeRenderer(tabletop.LOW, tabletop.HIGH, height=side, width=side, samples=samples, antialias=2)
    options = ENCODERS[made.encoder] | options
    more = {"frequencies": FREQUENCIES, "channels": width, "options": options, "told": made.told}
    denoiser = made.denoiser(renderer, made.encoder, width, **more)
    forward_model = identity if made.denoiser is ViewDenoiser else renderer
    schedule = ShiftedCosineSchedule(0.5 * SIDE / side)  # the noise on what is large is the same in finer images
    return made.kind(denoiser, forward_model, schedule, made.novel_weight)


def named(arm: str, side: int = SIDE) -> str:
    """What the files of an arm are called: by its name, and by the side of its images where that is another one."""
    return arm if side == SIDE else f"{arm}_{side}"


def with_weights(arm: str, weights: dict[str, Tensor], side: int = SIDE) -> ForwardDiffusion:
    """An arm's model with weights that a training left, in whatever precision and at whatever side of the images."""
    model = untrained(arm, side=side)
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
    sharing: int = 1,
    command: str = "",
    before: dict | None = None,
    **budget,
) -> Fit:
    """Trains within a budget of `steps` or `seconds`, those of earlier calls included.

    Leaves weights in half precision, losses and commit in the folder, and the state to go on from.
    pixels, contexts, empty: as of tabletop.batches
    sharing: how many trainings have the device at once, for the record, as are the command and what was done `before`
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    fast = device == "cuda"
    torch.backends.cudnn.benchmark = fast  # all images are of one size: worth trying which convolution is the fastest
    side = model.denoiser.renderer.height
    batch = tabletop.batches(size, contexts, pixels, side=side, empty=empty, device=device, compile=fast)
    done = fit(
        model,
        batch,
        learning_rate=RATE,
        bf16=fast,
        compile=fast,
        checkpoint=folder / f"{name}.state",
        checkpoint_every=200,
        progress=False,
        **budget,
    )
    weights = {key: value.half().contiguous() for key, value in model.denoiser.state_dict().items()}
    save_file(weights, folder / f"{name}.safetensors")
    record = origin(command) | {
        "steps": done.steps,
        "batch": size,
        "minutes": done.seconds / 60,
        "gpu_minutes": done.seconds / 60 / sharing,
        "before": before or {},
    }
    write_json(folder / f"{name}.json", record | {"curve": {key: values[::20] for key, values in done.curve.items()}})
    return done


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train a model of tabletop scenes.")
    parser.add_argument("arm", choices=tuple(ARMS))
    parser.add_argument("--out", type=Path, default=Path("build/inverse_graphics"))
    parser.add_argument("--minutes", type=float, default=13.0, help="of training")
    parser.add_argument("--steps", type=int, help="of training, where they end before the minutes do")
    parser.add_argument("--batch", type=int, default=BATCH, help="scenes a step, over all devices")
    parser.add_argument("--contexts", type=int, default=CONTEXTS, help="images in the context, at most")
    parser.add_argument("--side", type=int, default=SIDE, help="pixels along a side of an image")
    parser.add_argument("--start", type=Path, help="weights to start from, that an earlier training left")
    parser.add_argument("--sharing", type=int, default=1, help="how many trainings have the device at once")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    budget = f"--minutes {options.minutes:g} --batch {options.batch} --contexts {options.contexts}"
    budget += f" --steps {options.steps}" if options.steps else ""
    budget += f" --side {options.side}" if options.side != SIDE else ""
    budget += f" --start {options.start.name}" if options.start else ""
    arm, weights = options.arm, load_file(options.start) if options.start else None
    model = with_weights(arm, weights, options.side) if weights else untrained(arm, side=options.side)
    done = train(
        model,
        options.out,
        named(arm, options.side),
        options.batch,
        pixels=ARMS[arm].pixels,
        contexts=options.contexts,
        empty=ARMS[arm].empty,
        sharing=options.sharing,
        command=f"{COMMAND} {options.arm} {budget}",
        before=read_manifest().get(options.start.name) if options.start else None,
        steps=options.steps,
        seconds=60 * options.minutes,
    )
    print(f"{options.arm}: {done.steps} steps of {options.batch} in {done.seconds / 60:.1f} minutes", flush=True)


if __name__ == "__main__":
    main()
