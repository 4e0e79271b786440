"""The experiment on clips: models that are trained and evaluated on frames with known cameras.

    python -m fwdiff_lite.experiments real_clips train unet deterministic --minutes 60 --data FOLDER
    python -m fwdiff_lite.experiments real_clips evaluate --data TEST_FOLDER

The folders are in any format of fwdiff_lite/datasets/clip_folder.py, each with one split of the clips. Every clip has
its own unit of length; --near-far is given in this unit, and `python -m fwdiff_lite.datasets check` estimates it. From
each test clip, one frame is the context, one frame is the target, and one frame between them is the novel view. The
first evaluation writes a list of these frames beside the weights, and all later ones read the list, so that all models
are evaluated on the same frames. A line of the list is the clip's name and the timestamps of context, target and novel
view. --list also takes an evaluation index of pixelSplat (a JSON file), with several
contexts and targets a clip; models then need training with --contexts. PSNR and SSIM are always measured; LPIPS, FID
and KID where torchmetrics and its weights are available.
"""

from __future__ import annotations

import math
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader

from fwdiff_lite import metrics
from fwdiff_lite.checks import abbreviate
from fwdiff_lite.colours import to_uint8
from fwdiff_lite.command_line import positive_int
from fwdiff_lite.datasets import clip_folder, co3d
from fwdiff_lite.datasets.clip_loader import make_loader
from fwdiff_lite.datasets.pixelsplat import read_evaluation_index
from fwdiff_lite.datasets.posed_clips import ON_ERROR, Clip
from fwdiff_lite.datasets.view_sampler import (
    FRAME_GAP,
    evaluation_list,
    load_indexed_views,
    load_views,
    read_evaluation_list,
    write_evaluation_list,
)
from fwdiff_lite.diffusion import ForwardDiffusion, ForwardRegression
from fwdiff_lite.experiments.declaration import Evaluation, Experiment, Results, Variant
from fwdiff_lite.experiments.harness import Session
from fwdiff_lite.experiments.inverse_graphics.posterior_samples import (
    STEPS,
    Sampling,
    autocast,
    predict_deterministic,
    sample_and_render,
)
from fwdiff_lite.experiments.inverse_graphics.variants import SETTINGS, SIDE, make_clip_variant
from fwdiff_lite.observations import Observations
from fwdiff_lite.plotting import image_grid
from fwdiff_lite.storage.files import file_sha256, read_json

K, EXAMPLES = 4, 6  # samples of each scene; scenes in the figure
NEAR_FAR = (1.0, 100.0)  # the near and far plane of a clip's scenes, in the clip's own unit


def sample_posterior(
    model: ForwardDiffusion, views: dict[str, Observations], k: int = K, steps: int = STEPS, seed: int = 0
) -> Float[Tensor, "c k v 3 h w"]:
    """Samples k scenes for each context, and renders them at the target and the novel cameras.

    views: "context", "target" and "novel"; v is 1 and the number of novel views
    A ForwardRegression predicts every view separately; then k is 1.
    """
    cameras = torch.cat([views["target"].params, views["novel"].params], 1)
    if isinstance(model, ForwardRegression):
        return predict_deterministic(model, views["context"], cameras)
    sampling = Sampling(k, steps, seed=seed)
    return sample_and_render(model, views["context"], cameras, sampling, sampling.generator())


def evaluate(samples: Float[Tensor, "c k v 3 h w"], views: dict[str, Observations]) -> dict[str, float]:
    """PSNR (of the error pooled over all frames) and SSIM: of one sample, of the mean and of the best of k samples.

    The best is chosen for each novel view separately.
    """
    numbers = {}
    for view, sampled in (("target", samples[:, :, :1]), ("novel", samples[:, :, 1:])):
        truth, sampled = views[view].value.flatten(0, 1), sampled.transpose(1, 2).flatten(0, 1)
        images = {"one": sampled[:, 0]}
        if sampled.shape[1] > 1:
            images |= {"mean": sampled.mean(1), f"best_of_{sampled.shape[1]}": metrics.best_of(sampled, truth)}
        for name, image in images.items():
            numbers[f"psnr_{view}_{name}"] = metrics.psnr(image, truth, 2)
            numbers[f"ssim_{view}_{name}"] = float(metrics.ssim(image, truth, 2).mean())
    return numbers


def perceptual_metrics(samples: Float[Tensor, "c k v 3 h w"], views: dict[str, Observations]) -> tuple[dict, list[str]]:
    """LPIPS, FID and KID of one sample's target view, and a warning for each of them that is not available."""
    images, truth = samples[:, 0, 0], views["target"].value[:, 0]
    numbers, warnings = {}, []
    for names, measure in ((("lpips",), metrics.lpips), (("fid", "kid"), metrics.fid_kid)):
        try:
            values = measure(images, truth)
        except (metrics.OptionalDependencyError, ValueError) as error:
            warnings.append(f"no {' and '.join(names)}: {error}")
        else:
            values = values if isinstance(values, tuple) else (values,)
            numbers |= {f"{name}_target_one": value for name, value in zip(names, values, strict=True)}
    return numbers, warnings


def save_examples(samples: Float[Tensor, "c k v 3 h w"], views: dict[str, Observations], path: Path) -> None:
    """Writes a figure with one scene a row: context, target, up to three samples of it, novel view, its sample."""
    rows = slice(EXAMPLES)
    columns = [views["context"].value[rows, :1], views["target"].value[rows], samples[rows, :3, 0]]
    columns = torch.cat([*columns, views["novel"].value[rows, :1], samples[rows, :1, 1]], 1)
    sample_titles = ["sample"] * samples[0, :3].shape[0]
    col_titles = ["context", "target", *sample_titles, "novel", "sample"]
    grid = image_grid(to_uint8(columns.movedim(2, -1)), col_titles=col_titles)
    grid.savefig(path)


# --- the experiment ---------------------------------------------------------------------------------------------------


def add_arguments(action: str, parser: ArgumentParser) -> None:
    """Adds the arguments of the commands that read clips."""
    parser.add_argument("--data", type=Path, required=True, help="a folder of posed clips, in any known format")
    default_side = f"{SIDE}" if action == "train" else "that of the training"
    side_help = f"images are cropped to squares and resized to so many pixels a side; default: {default_side}"
    parser.add_argument("--side", type=positive_int, help=side_help)
    gap_help = f"least and largest number of frames from context to target; default: {FRAME_GAP[0]} {FRAME_GAP[1]}"
    parser.add_argument(
        "--frame-gap", type=positive_int, nargs=2, metavar=("MIN", "MAX"), default=FRAME_GAP, help=gap_help
    )
    actions, error_help = ON_ERROR, "stop at an invalid clip or frame, or skip it; default: %(default)s"
    parser.add_argument("--on-error", choices=actions, default=actions[0], help=error_help)
    parser.add_argument("--skip-pose-check", action="store_true", help="do not check the clips' frames and poses again")
    co3d.add_arguments(parser)
    if action == "train":
        workers_help = "processes that decode images; default: none, threads of this process decode"
        parser.add_argument("--workers", type=positive_int, metavar="N", help=workers_help)
        contexts_help = "each example has 1 to so many contexts; default: %(default)s"
        parser.add_argument("--contexts", type=positive_int, default=1, help=contexts_help)
        planes_help = f"depths of the first and the last sample of a ray; default: {NEAR_FAR[0]:g} {NEAR_FAR[1]:g}"
        parser.add_argument(
            "--near-far", type=float, nargs=2, metavar=("NEAR", "FAR"), default=NEAR_FAR, help=planes_help
        )
    else:
        parser.add_argument(
            "--list", type=Path, help="the frames to use, a text or a JSON index; default: evaluation_list.txt in --out"
        )
        examples_help = "context, target and novel view of each clip in a list that is written; default: %(default)s"
        parser.add_argument("--examples-per-clip", type=positive_int, metavar="N", default=1, help=examples_help)


def read_data(options: Namespace, side: int) -> list[Clip]:
    """Reads the clips in --data and prints what was skipped. ValueError if they cannot be used.

    side: pixels along each side of an image
    """
    if options.out.resolve() == options.data.resolve():
        raise ValueError("--out and --data are one folder: the output would be read as clips")
    if options.frame_gap[0] > options.frame_gap[1]:
        raise ValueError("--frame-gap is the least and the largest number of frames: give the smaller number first")
    near, far = getattr(options, "near_far", NEAR_FAR)
    if not 0 < near < far < math.inf:
        raise ValueError(f"--near-far is {near:g} {far:g}: give two distances above 0, the smaller one first")
    clips, warnings = clip_folder.read_folder(
        options.data,
        tuple(options.frame_gap),
        options.on_error,
        not options.skip_pose_check,
        side,
        co3d.selection_from(options),
    )
    print("\n".join([*warnings, f"{options.data}: {len(clips)} clips"]), flush=True)
    return clips


def trained_options(options: Namespace, names: tuple[str, ...]) -> dict[str, dict]:
    """The recorded options of the models in --out that are evaluated, by their variants."""
    named = [name for name in names if name in options.names] or names
    records = {name: read_json(options.out / f"{name}.json").get("options", {}) for name in named}
    return {name: record for name, record in records.items() if record}


def image_side(options: Namespace, trained: dict[str, dict]) -> int:
    """Pixels along each side of an image: --side, or that of the trained models. ValueError if these differ."""
    if options.action == "train" or not trained:
        return options.side or SIDE
    sides = {name: record["side"] for name, record in trained.items()}
    if options.side is None and len(set(sides.values())) > 1:
        text = ", ".join(f"{name} with {side}" for name, side in sides.items())
        raise ValueError(f"the models in {options.out} were trained with several --side ({text}): name some of them")
    side = options.side or next(iter(sides.values()))
    for name, trained_side in sides.items():
        if trained_side != side:
            raise ValueError(f"--side is {side}, but {name} was trained with --side {trained_side}: leave it out")
    return side


def check_contexts(path: Path, num_contexts: int, trained: dict[str, dict]) -> None:
    """ValueError if the list in `path` has more contexts than a model was trained with."""
    for name, record in trained.items():
        if num_contexts > record.get("contexts", 1):
            raise ValueError(
                f"{path} has {num_contexts} contexts a clip, but {name} was trained with {record.get('contexts', 1)}: "
                f"train it with --contexts {num_contexts}, or give a list with fewer"
            )


def is_index_file(path: Path) -> bool:
    """Whether a list is a JSON index, by its ending or its content."""
    if path.suffix == ".json" or not path.is_file():
        return path.suffix == ".json"
    with path.open("rb") as file:
        return file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")


def indexed_views(path: Path, clips: list[Clip], side: int, options: Namespace) -> dict[str, Observations]:
    """The views of a JSON index; prints how many of its entries there are in --data."""
    index, names = read_evaluation_index(path), {clip.name for clip in clips}
    views = load_indexed_views(clips, index, side)
    absent = [name for name in index if name not in names]
    text = f"{path}: {len(index) - len(absent)} of {len(index)} entries are evaluated"
    if absent:
        text += f"; not in {options.data}, or skipped: {abbreviate(absent)}"
    print(text, flush=True)
    return views


def listed_views(
    path: Path, clips: list[Clip], side: int, options: Namespace, is_trained: bool
) -> dict[str, Observations]:
    """The views of the list in `path`. If there is none, a new one is written, unless no model is trained."""
    frame_gap = tuple(options.frame_gap)
    if not path.exists():
        views = evaluation_list(clips, frame_gap, options.examples_per_clip)
        if is_trained:
            write_evaluation_list(path, views)
    else:
        views = read_evaluation_list(path)
    return load_views(clips, views, side, frame_gap, path)


def configure(experiment: Experiment, options: Namespace) -> Experiment:
    """The experiment on the clips in --data. ValueError if clips, list or planes cannot be used."""
    frame_gap = tuple(options.frame_gap)
    trained = {} if options.action == "train" else trained_options(options, tuple(experiment.variants))
    side = image_side(options, trained)
    path = list_path(options)
    clips = read_data(options, side)
    selection = {key: value for key, value in co3d.selection_from(options)._asdict().items() if value}
    flags = {key: () if value is True else value for key, value in selection.items()}
    arguments = {"data": options.data.name, "frame_gap": frame_gap} | ({} if side == SIDE else {"side": side}) | flags
    if options.action == "train":
        return configure_training(experiment, options, clips, side, arguments)
    variants = {}
    for name in experiment.variants:
        record = trained.get(name, {})
        planes = tuple(record.get("near_far", NEAR_FAR))
        variants[name] = make_clip_variant(name, clips, frame_gap, planes, "", side, record.get("contexts", 1))
    if is_index_file(path):
        views = indexed_views(path, clips, side, options)
        check_contexts(path, views["context"].mask.shape[1], trained)
    else:
        views = listed_views(path, clips, side, options, bool(trained))
    digest = file_sha256(path) if path.exists() else ""
    data = {"data": str(options.data.resolve()), "list": digest, "scenes": len(views["target"])}
    return replace(
        experiment,
        variants=variants,
        arguments=arguments | ({"list": options.list.name} if options.list else {}),
        settings=data | {"frame_gap": list(frame_gap), "side": side} | selection,
        make_test_set=lambda device, _: {key: view.to(device) for key, view in views.items()},
    )


def configure_training(
    experiment: Experiment, options: Namespace, clips: list[Clip], side: int, arguments: dict[str, Any]
) -> Experiment:
    """The experiment whose variants are trained on the clips; side: pixels along each side of an image."""
    frame_gap, near_far, variants = tuple(options.frame_gap), tuple(options.near_far), {}
    folder = options.data.resolve().name  # not the path: a folder may be moved
    for name in experiment.variants:
        variants[name] = make_clip_variant(name, clips, frame_gap, near_far, folder, side, options.contexts)
        if options.workers:
            variants[name] = with_workers(variants[name], clips, frame_gap, options.workers)
    arguments = arguments | {"near_far": near_far}
    arguments |= {"contexts": options.contexts} if options.contexts > 1 else {}
    arguments |= {"workers": options.workers} if options.workers else {}
    return replace(experiment, variants=variants, arguments=arguments)


def list_path(options: Namespace) -> Path:
    """The file of an evaluation's frames. ValueError if --list names no file, or one of another form."""
    if options.action == "train":
        return Path()
    if options.list and not options.list.exists():
        raise ValueError(f"there is no {options.list}: without --list, one is written to {options.out}")
    path = options.list or options.out / "evaluation_list.txt"
    if path.exists():  # a list of another form is refused before all clips are read
        (read_evaluation_index if is_index_file(path) else read_evaluation_list)(path)
    return path


def with_workers(variant: Variant, clips: list[Clip], frame_gap: tuple[int, int], num_workers: int) -> Variant:
    """The variant, trained on batches of a DataLoader: its processes decode images while the model is trained."""
    pixels, side = variant.options["pixels"], variant.options["side"]
    contexts = variant.options.get("contexts", 1)

    def batches(device: torch.device, batch_size: int) -> DataLoader:
        return make_loader(clips, batch_size, frame_gap, num_workers, pixels=pixels, side=side, max_contexts=contexts)

    return replace(variant, batches=batches)


def evaluate_variant(name: str, session: Session) -> Results:
    """The measures of a variant's samples. Writes a figure of examples, and prints a warning for a missing measure."""
    samples, steps = session.options["samples"], session.options["steps"]
    with autocast(session.device):
        images = sample_posterior(session.model(name), session.test_set, samples, steps).float().cpu()
    views = {key: view.to("cpu") for key, view in session.test_set.items()}
    perceptual_numbers, warnings = perceptual_metrics(images, views)
    save_examples(images, views, session.folder / f"evaluation_{name}.png")
    for warning in warnings:
        print(warning, flush=True)
    return Results(evaluate(images, views) | perceptual_numbers, {})


def needs_data(device: torch.device, options: object) -> None:
    """The test set of an experiment that `configure` has not given clips. ValueError always."""
    raise ValueError("this experiment needs clips: give --data")


VARIANT_NAMES = tuple(name for name, settings in SETTINGS.items() if settings.fits_clips)
EXPERIMENT = Experiment(
    name="real_clips",
    results_name="real_clips",
    variants={name: make_clip_variant(name, [], FRAME_GAP, NEAR_FAR) for name in VARIANT_NAMES},
    evaluations={name: Evaluation(partial(evaluate_variant, name), name) for name in VARIANT_NAMES},
    make_test_set=needs_data,
    evaluation_options={"samples": K, "steps": STEPS},
    add_arguments=add_arguments,
    configure=configure,
)
