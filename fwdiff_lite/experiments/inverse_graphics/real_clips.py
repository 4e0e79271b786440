"""The experiment on clips: models that are trained and evaluated on frames with known cameras.

    python -m fwdiff_lite.experiments real_clips train unet deterministic --minutes 60 --data FOLDER
    python -m fwdiff_lite.experiments real_clips evaluate --data TEST_FOLDER

The folders are in any format of fwdiff_lite/datasets/clip_folder.py, each with one split of the clips. Every clip has
its own unit of length; --near-far is given in this unit, and `python -m fwdiff_lite.datasets check` estimates it. From
each test clip, one frame is the context, one frame is the target, and one frame between them is the novel view. The
first evaluation writes a list of these frames beside the weights, and all later ones read the list, so that all models
are evaluated on the same frames. --list also takes an evaluation index of pixelSplat (a JSON file), with several
contexts and targets a clip; models then need training with --contexts. PSNR and SSIM are always measured; LPIPS, FID
and KID where torchmetrics and its weights are available.
"""

from __future__ import annotations

import math
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader

from fwdiff_lite import metrics
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
from fwdiff_lite.experiments.harness import Evaluation, Experiment, Results, Session, Variant
from fwdiff_lite.experiments.inverse_graphics.evaluation import (
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
    parser.add_argument("--side", type=positive_int, default=SIDE, help="pixels along each side of an image")
    gap_help = "least and largest number of frames from context to target; default: 100 180"
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
        parser.add_argument(
            "--near-far", type=float, nargs=2, metavar=("NEAR", "FAR"), default=NEAR_FAR, help="default: 1 100"
        )
    else:
        parser.add_argument(
            "--list", type=Path, help="the frames to use, a text or a JSON index; default: evaluation_list.txt in --out"
        )


def read_data(options: Namespace) -> list[Clip]:
    """Reads the clips in --data and prints what was skipped. ValueError if they cannot be used."""
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
        options.side,
        co3d.selection_from(options),
    )
    print("\n".join([*warnings, f"{options.data}: {len(clips)} clips"]), flush=True)
    return clips


def configure(experiment: Experiment, options: Namespace) -> Experiment:
    """The experiment on the clips in --data. ValueError if clips, list or planes cannot be used."""
    frame_gap, folder = tuple(options.frame_gap), str(options.data.resolve())
    near_far = tuple(getattr(options, "near_far", NEAR_FAR))
    frames_path = getattr(options, "list", None)
    if frames_path and not frames_path.exists():
        raise ValueError(f"there is no {frames_path}: without --list, one is written to {options.out}")
    path = frames_path or options.out / "evaluation_list.txt"
    is_index = path.suffix == ".json"
    read_list = read_evaluation_index if is_index else read_evaluation_list
    if options.action == "evaluate" and path.exists():
        read_list(path)  # a list of another form is refused before all clips are read
    clips, variants = read_data(options), {}
    for name in experiment.variants:
        trained = read_json(options.out / f"{name}.json").get("options", {})
        planes = near_far if options.action == "train" else tuple(trained.get("near_far", near_far))
        contexts = options.contexts if options.action == "train" else trained.get("contexts", 1)
        variants[name] = make_clip_variant(name, clips, frame_gap, planes, folder, options.side, contexts)
        if workers := getattr(options, "workers", None):
            variants[name] = with_workers(variants[name], clips, frame_gap, workers)
    side = {} if options.side == SIDE else {"side": options.side}
    selection = {key: value for key, value in co3d.selection_from(options)._asdict().items() if value}
    flags = {key: () if value is True else value for key, value in selection.items()}
    arguments = {"data": options.data.name, "frame_gap": frame_gap} | side | flags
    if options.action == "train":
        contexts = {"contexts": options.contexts} if options.contexts > 1 else {}
        contexts |= {"workers": options.workers} if options.workers else {}
        return replace(experiment, variants=variants, arguments=arguments | {"near_far": near_far} | contexts)
    if not path.exists():
        write_evaluation_list(path, evaluation_list(clips, frame_gap))
    if is_index:
        views = load_indexed_views(clips, read_evaluation_index(path), options.side)
    else:
        views = load_views(clips, read_evaluation_list(path), options.side, frame_gap)
    digest = file_sha256(path)
    return replace(
        experiment,
        variants=variants,
        arguments=arguments | ({"list": frames_path.name} if frames_path else {}),
        settings={"data": folder, "frame_gap": list(frame_gap), "list": digest, "scenes": len(views["target"])}
        | selection,
        make_test_set=lambda device, _: {key: view.to(device) for key, view in views.items()},
    )


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
