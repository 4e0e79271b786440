"""Judges the models that `train --data` left, on frames that they are asked for by their cameras.

    python -m fwdiff_lite.experiments.inverse_graphics.real_clips unet --data FOLDER
    python -m fwdiff_lite.experiments.inverse_graphics.real_clips deterministic --data FOLDER

Of each clip in the folder, another split than the one that was trained on, one frame is the context, one the target,
and one between them a novel view. Which, says a list that is written beside the weights the first time and read again
from then on, so that all models answer the same. PSNR and SSIM are always measured; LPIPS, FID and KID where
torchmetrics and its weights can be had.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from fwdiff_lite import metrics
from fwdiff_lite.colours import to_uint8
from fwdiff_lite.command_line import positive_int
from fwdiff_lite.datasets.realestate10k import evaluation_list, observe, read_list, write_list
from fwdiff_lite.devices import autocast_bf16, default_device
from fwdiff_lite.diffusion import ForwardDiffusion, ForwardRegression
from fwdiff_lite.experiments.inverse_graphics.evaluation import STEPS, drawn, means
from fwdiff_lite.experiments.inverse_graphics.train import VARIANTS, add_data_arguments, run_name, read_data, load_state
from fwdiff_lite.observations import Observations
from fwdiff_lite.plotting import image_grid
from fwdiff_lite.storage.files import read_json, write_json
from fwdiff_lite.storage.provenance import provenance

COMMAND = "python -m fwdiff_lite.experiments.inverse_graphics.real_clips"
K, SHOWN = 4, 6  # samples of each scene; scenes in the picture


def answer(
    model: ForwardDiffusion, seen: dict[str, Observations], k: int = K, steps: int = STEPS, seed: int = 0
) -> Float[Tensor, "c k 2 3 h w"]:
    """k scenes sampled for each context, as target and novel camera see them; of a ForwardRegression k = 1."""
    cameras = torch.cat([seen["target"].params, seen["novel"].params], 1)
    if isinstance(model, ForwardRegression):
        return means(model, seen["context"], cameras)
    return drawn(model, seen["context"], cameras, torch.Generator().manual_seed(seed), k, steps)


def evaluate(answers: Float[Tensor, "c k 2 3 h w"], seen: dict[str, Observations]) -> dict[str, float]:
    """PSNR (of the error pooled over all frames) and SSIM of one answer, of the mean of k, and of the best of k."""
    numbers = {}
    for v, view in enumerate(("target", "novel")):
        truth, given = seen[view].value[:, 0], answers[:, :, v]
        pictures = {"one": given[:, 0]}
        if given.shape[1] > 1:
            pictures |= {"mean": given.mean(1), f"best_of_{given.shape[1]}": metrics.best_of(given, truth)}
        for name, picture in pictures.items():
            numbers[f"psnr_{view}_{name}"] = metrics.psnr(picture, truth, 2)
            numbers[f"ssim_{view}_{name}"] = float(metrics.ssim(picture, truth, 2).mean())
    return numbers


def perceptual_metrics(answers: Float[Tensor, "c k 2 3 h w"], seen: dict[str, Observations]) -> tuple[dict, list[str]]:
    """LPIPS, FID and KID of one answer's target view, and which of them cannot be had, and why."""
    picture, truth = answers[:, 0, 0], seen["target"].value[:, 0]
    numbers, told = {}, []
    for names, measure in ((("lpips",), metrics.lpips), (("fid", "kid"), metrics.fid_kid)):
        try:
            found = measure(picture, truth)
        except (metrics.OptionalDependencyError, ValueError) as error:
            told.append(f"no {' and '.join(names)}: {error}")
        else:
            found = found if isinstance(found, tuple) else (found,)
            numbers |= {f"{name}_target_one": value for name, value in zip(names, found, strict=True)}
    return numbers, told


def show(answers: Float[Tensor, "c k 2 3 h w"], seen: dict[str, Observations], path: Path) -> None:
    """A picture: a row is a scene, with its context, its target and answers to it, its novel view and an answer."""
    rows = slice(SHOWN)
    columns = [seen["context"].value[rows], seen["target"].value[rows], answers[rows, :3, 0]]
    columns = torch.cat([*columns, seen["novel"].value[rows], answers[rows, :1, 1]], 1)
    given = ["answer"] * answers[0, :3].shape[0]
    grid = image_grid(to_uint8(columns.movedim(2, -1)), col_titles=["context", "target", *given, "novel", "answer"])
    grid.savefig(path)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Judge a model that was trained on clips.")
    parser.add_argument("arm", choices=tuple(VARIANTS))
    add_data_arguments(parser)
    parser.add_argument("--out", type=Path, default=Path("build/realestate10k"), help="where the training left it")
    parser.add_argument("--list", type=Path, help="which frames; default: evaluation_list.txt in --out")
    parser.add_argument("--samples", type=positive_int, default=K, help="of each scene")
    parser.add_argument("--steps", type=positive_int, default=STEPS, help="of sampling")
    options = parser.parse_args()
    if not options.data:
        parser.error("give the --data to judge it on")
    name = run_name(options.arm, options.side)
    kind = read_json(options.out / f"{name}.json").get("options", {})
    if "ends" not in kind:
        parser.error(f"{options.out} holds no {name} that was trained on clips: run train with --data first")
    if options.list and not options.list.exists():
        parser.error(f"there is no {options.list}: without --list, one is written to {options.out}")
    clips, path = read_data(parser, options), options.list or options.out / "evaluation_list.txt"
    if not path.exists():
        write_list(path, evaluation_list(clips, options.distance))
    try:
        views = read_list(path)
        seen = observe(clips, views, options.side, options.distance)
    except ValueError as error:
        parser.error(str(error))
    device = default_device()
    model = load_state(options.arm, load_file(options.out / f"{name}.safetensors"), **kind).to(device)
    with autocast_bf16(device, device.type == "cuda"):
        at = {name: x.to(device) for name, x in seen.items()}
        answers = answer(model, at, options.samples, options.steps).float().cpu()
    found, told = perceptual_metrics(answers, seen)
    numbers = evaluate(answers, seen) | found
    command = f"{COMMAND} {options.arm} --data {options.data.name} --samples {options.samples} --steps {options.steps}"
    asked = {"distance": options.distance, "list": path.name, "scenes": len(views)}
    write_json(options.out / f"evaluation_{name}.json", provenance(command) | asked | numbers)
    show(answers, seen, options.out / f"evaluation_{name}.png")
    print("\n".join([*told, *(f"{name} {value:.4g}" for name, value in numbers.items())]), flush=True)


if __name__ == "__main__":
    main()
