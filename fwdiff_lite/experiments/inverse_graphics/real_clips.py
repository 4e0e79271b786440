"""Evaluates the models that `train --data` trained on clips, on held-out frames with known cameras.

    python -m fwdiff_lite.experiments.inverse_graphics.real_clips unet --data FOLDER
    python -m fwdiff_lite.experiments.inverse_graphics.real_clips deterministic --data FOLDER

FOLDER is another split than that of the training. From each of its clips, one frame is the context, one frame is the
target, and one frame between them is the novel view. A list of these frames is written beside the weights the first
time and read from then on, so that all models are evaluated on the same frames. PSNR and SSIM are always measured;
LPIPS, FID and KID where torchmetrics and its weights are available.
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
from fwdiff_lite.datasets.view_sampler import evaluation_list, load_views, read_evaluation_list, write_evaluation_list
from fwdiff_lite.devices import autocast_bf16, default_device
from fwdiff_lite.diffusion import ForwardDiffusion, ForwardRegression
from fwdiff_lite.experiments.inverse_graphics.evaluation import STEPS, predict_deterministic, sample_and_render
from fwdiff_lite.experiments.inverse_graphics.train import VARIANTS, add_data_arguments, load_state, read_data, run_name
from fwdiff_lite.observations import Observations
from fwdiff_lite.plotting import image_grid
from fwdiff_lite.storage.files import read_json, write_json
from fwdiff_lite.storage.provenance import provenance

COMMAND = "python -m fwdiff_lite.experiments.inverse_graphics.real_clips"
K, EXAMPLES = 4, 6  # samples of each scene; scenes in the figure


def sample_posterior(
    model: ForwardDiffusion, views: dict[str, Observations], k: int = K, steps: int = STEPS, seed: int = 0
) -> Float[Tensor, "c k 2 3 h w"]:
    """Samples k scenes for each context, and renders them at the target and the novel camera.

    views: "context", "target" and "novel"
    A ForwardRegression predicts every view separately; then k is 1.
    """
    cameras = torch.cat([views["target"].params, views["novel"].params], 1)
    if isinstance(model, ForwardRegression):
        return predict_deterministic(model, views["context"], cameras)
    generator = torch.Generator().manual_seed(seed)
    return sample_and_render(model, views["context"], cameras, generator, k, steps)


def evaluate(samples: Float[Tensor, "c k 2 3 h w"], views: dict[str, Observations]) -> dict[str, float]:
    """PSNR (of the error pooled over all frames) and SSIM: of one sample, of the mean and of the best of k samples."""
    numbers = {}
    for v, view in enumerate(("target", "novel")):
        truth, sampled = views[view].value[:, 0], samples[:, :, v]
        images = {"one": sampled[:, 0]}
        if sampled.shape[1] > 1:
            images |= {"mean": sampled.mean(1), f"best_of_{sampled.shape[1]}": metrics.best_of(sampled, truth)}
        for name, image in images.items():
            numbers[f"psnr_{view}_{name}"] = metrics.psnr(image, truth, 2)
            numbers[f"ssim_{view}_{name}"] = float(metrics.ssim(image, truth, 2).mean())
    return numbers


def perceptual_metrics(samples: Float[Tensor, "c k 2 3 h w"], views: dict[str, Observations]) -> tuple[dict, list[str]]:
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


def save_examples(samples: Float[Tensor, "c k 2 3 h w"], views: dict[str, Observations], path: Path) -> None:
    """Writes a figure with one scene a row: context, true target, up to three samples of it, novel view, its sample."""
    rows = slice(EXAMPLES)
    columns = [views["context"].value[rows], views["target"].value[rows], samples[rows, :3, 0]]
    columns = torch.cat([*columns, views["novel"].value[rows], samples[rows, :1, 1]], 1)
    sample_titles = ["sample"] * samples[0, :3].shape[0]
    col_titles = ["context", "target", *sample_titles, "novel", "sample"]
    grid = image_grid(to_uint8(columns.movedim(2, -1)), col_titles=col_titles)
    grid.savefig(path)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Evaluate a model that was trained on clips.")
    parser.add_argument("variant", choices=tuple(VARIANTS))
    add_data_arguments(parser)
    parser.add_argument("--out", type=Path, default=Path("build/realestate10k"), help="the folder of the training")
    parser.add_argument("--list", type=Path, help="the frames to use; default: evaluation_list.txt in --out")
    parser.add_argument("--samples", type=positive_int, default=K, help="samples for each scene")
    parser.add_argument("--steps", type=positive_int, default=STEPS, help="sampling steps")
    options = parser.parse_args()
    if not options.data:
        parser.error("give --data, the folder of the test clips")
    name = run_name(options.variant, options.side)
    model_options = read_json(options.out / f"{name}.json").get("options", {})
    if "near_far" not in model_options:
        parser.error(f"{options.out} holds no {name} that was trained on clips: run train with --data first")
    if options.list and not options.list.exists():
        parser.error(f"there is no {options.list}: without --list, one is written to {options.out}")
    clips, path = read_data(parser, options), options.list or options.out / "evaluation_list.txt"
    if not path.exists():
        write_evaluation_list(path, evaluation_list(clips, options.frame_gap))
    try:
        frame_list = read_evaluation_list(path)
        views = load_views(clips, frame_list, options.side, options.frame_gap)
    except ValueError as error:
        parser.error(str(error))
    device = default_device()
    weights = load_file(options.out / f"{name}.safetensors")
    model = load_state(options.variant, weights, **model_options).to(device)
    with autocast_bf16(device, device.type == "cuda"):
        device_views = {key: view.to(device) for key, view in views.items()}
        samples = sample_posterior(model, device_views, options.samples, options.steps).float().cpu()
    perceptual_numbers, warnings = perceptual_metrics(samples, views)
    numbers = evaluate(samples, views) | perceptual_numbers
    arguments = f"--data {options.data.name} --samples {options.samples} --steps {options.steps}"
    settings = {"frame_gap": options.frame_gap, "list": path.name, "scenes": len(frame_list)}
    record = provenance(f"{COMMAND} {options.variant} {arguments}") | settings
    write_json(options.out / f"evaluation_{name}.json", record | numbers)
    save_examples(samples, views, options.out / f"evaluation_{name}.png")
    print("\n".join([*warnings, *(f"{key} {value:.4g}" for key, value in numbers.items())]), flush=True)


if __name__ == "__main__":
    main()
