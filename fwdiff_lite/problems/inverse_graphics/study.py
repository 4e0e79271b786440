"""The examination that the models of 3-D tabletop scenes sit, and what of it the notebook 06_inverse_graphics shows.

    python -m fwdiff_lite.problems.inverse_graphics.study examine unet --out build/inverse_graphics
    python -m fwdiff_lite.problems.inverse_graphics.study orbit around --out build/inverse_graphics
    python -m fwdiff_lite.problems.inverse_graphics.study live unet --out build/inverse_graphics
    python -m fwdiff_lite.problems.inverse_graphics.study ship unet --out build/inverse_graphics

`examine` draws samples for held-out scenes from a model that `train` left in the folder, judges them against the truth,
against true redraws of what the context hides and against the deterministic baseline, and writes all measures with
examples to examination_ARM.npz. `orbit` samples scenes to be seen from all around, to orbit_ARM.npz, and `live` what a
CPU is to compute again, to live_ARM.npz. `ship` puts a model's weights and all that these commands left into
checkpoints/.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file
from torch import Tensor

from fwdiff_lite import metrics
from fwdiff_lite.devices import autocast_bf16, default_device
from fwdiff_lite.diffusion import ForwardDiffusion, ForwardRegression
from fwdiff_lite.files import read_json
from fwdiff_lite.observations import Observations
from fwdiff_lite.plotting import levels
from fwdiff_lite.pretrained import load_pretrained, load_recorded, read_manifest, save_pretrained, save_recorded
from fwdiff_lite.problems.inverse_graphics import tabletop
from fwdiff_lite.problems.inverse_graphics.train import ARMS, SIDE, compile_networks, named, with_weights
from fwdiff_lite.problems.inverse_graphics.volume import Image
from fwdiff_lite.training import natural, origin, origins

NAME = "06_inverse_graphics"
COMMAND = "python -m fwdiff_lite.problems.inverse_graphics.study"
BASELINE = "deterministic"
DEGREES = (60, 120, 180)  # of the targets, around the table from the context
BETWEEN = 0.75  # of the way to the target stands the novel camera
COUNT, K, STEPS = 128, 16, 32  # scenes of the examination, samples of each, steps of sampling
BEHIND = DEGREES[2:]  # from where hidden factors are read
ETAS = {  # the etas of sampling that an arm is examined with, the main one first, and at which targets
    "unet": {1: DEGREES, 0: BEHIND},
    "dit": {0: DEGREES, 1: BEHIND},
    "no_novel": {0: BEHIND, 1: BEHIND},
}
REDRAWS = 8  # that are asked which pixels a context does not see
EXAMPLES, ORBITS = 6, 4  # scenes of which pictures are kept, and orbits
HEADLINES = tuple(f"energy_skill_{degrees}" for degrees in DEGREES) + ("factor_tv", "factor_scene_rms")
TEXTS = ("numbers", "records", "curves", "parts", "benchmark")  # that `ship` keeps beside the examples, as JSON
LIVE = {"count": 2, "k": 2, "steps": 16}  # what a CPU is to compute again

# --- the examination --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Exam:
    """c held-out scenes seen from their fronts, and for each of DEGREES a target and a novel view, V = 2 in this order.

    cameras: (c, D, V, 4, 4); truth: (c, D, V, 3, H, W); redrawn: (c, K, D, V, 3, H, W) what else could have been seen
    unseen:  (c, D, V, H, W) pixels that show, or could show, what the context does not see
    """

    scenes: tabletop.Scenes
    context: Observations
    cameras: Float[Tensor, "c d v 4 4"]
    truth: Float[Tensor, "c d v 3 h w"]
    redrawn: Float[Tensor, "c k d v 3 h w"]
    unseen: Bool[Tensor, "c d v h w"]


def exam_scenes(seed: int = 2026) -> tuple[tabletop.Scenes, Float[Tensor, "c 1 4 4"], torch.Generator]:
    """All COUNT held-out scenes, a front camera of each, and the generator that everything else is drawn from next."""
    generator = torch.Generator().manual_seed(seed)
    scenes = tabletop.draw_scenes(COUNT, generator)
    return scenes, tabletop.front_cameras(scenes, generator), generator


def exam(count: int = COUNT, k: int = K, seed: int = 2026, side: int = 64, device: str | torch.device = "cpu") -> Exam:
    """The first `count` held-out scenes with k redraws of each. ValueError above COUNT."""
    if not 1 <= count <= COUNT:
        raise ValueError(f"the examination has {COUNT} scenes, got count = {count}")
    scenes, fronts, generator = exam_scenes(seed)
    scenes, fronts = scenes[:count].to(device), fronts[:count].to(device)
    cameras = torch.stack(
        [torch.cat([tabletop.turned(fronts, d * way) for way in (1, BETWEEN)], 1) for d in DEGREES], 1
    )
    flat = cameras.flatten(1, 2)  # (c, D V, 4, 4)
    others, every = tabletop.redraw_hidden(scenes.repeat(k), generator), flat.repeat_interleave(k, 0)
    redrawn = [
        tabletop.render(others[rows], every[rows], side) for rows in torch.arange(count * k, device=device).split(16)
    ]
    unseen = torch.zeros((*flat.shape[:2], side, side), dtype=torch.bool, device=device)
    for _ in range(REDRAWS):
        unseen |= tabletop.unseen(tabletop.redraw_hidden(scenes, generator), fronts, flat, side)
    return Exam(
        scenes,
        Observations(tabletop.render(scenes, fronts, side), fronts),
        cameras,
        tabletop.render(scenes, flat, side).unflatten(1, cameras.shape[1:3]),
        torch.cat(redrawn).unflatten(0, (count, k)).unflatten(2, cameras.shape[1:3]),
        unseen.unflatten(1, cameras.shape[1:3]),
    )


def answer(
    model: ForwardDiffusion,
    exam: Exam,
    k: int = K,
    steps: int = STEPS,
    eta: float = 0.0,
    seed: int = 0,
    degrees: tuple[int, ...] = DEGREES,
    chunk: int = 64,
    **options,
) -> Float[Tensor, "c k d v 3 h w"]:
    """k scenes sampled for each context and target, as they look from that target and from the novel camera.

    A ForwardRegression gives its one answer to each view, k = 1. chunk: how many are sampled at once; options: of
    `model.sample`
    """
    if isinstance(model, ForwardRegression):
        views = means(model, exam.context, exam.cameras.flatten(1, 2), chunk)
        return views.unflatten(2, exam.cameras.shape[1:3])
    generator, places = torch.Generator().manual_seed(seed), map(DEGREES.index, degrees)
    views = [drawn(model, exam.context, exam.cameras[:, d], generator, k, steps, eta, chunk, **options) for d in places]
    return torch.stack(views, 2)


def drawn(
    model: ForwardDiffusion,
    context: Observations,
    cameras: Float[Tensor, "c v 4 4"],
    generator: torch.Generator,
    k: int = K,
    steps: int = STEPS,
    eta: float = 0.0,
    chunk: int = 64,
    **options,
) -> Float[Tensor, "c k v 3 h w"]:
    """k scenes sampled for each context with the first camera as target, as they look from all V cameras.

    options: of `model.sample`
    """
    contexts, cameras, parts = context.repeat(k), cameras.repeat_interleave(k, 0), []
    for rows in torch.arange(len(contexts), device=cameras.device).split(chunk):
        step = model.sample(contexts[rows], cameras[rows, :1], steps=steps, eta=eta, generator=generator, **options)
        parts.append(looks(step.signal, cameras[rows]))
    return torch.cat(parts).unflatten(0, (-1, k))


def looks(scenes: Any, cameras: Float[Tensor, "b m 4 4"]) -> Float[Tensor, "b m 3 h w"]:
    """What M cameras see of sampled scenes, which have `render`; one camera after another, for memory."""
    return torch.cat([scenes.render(camera).rgb for camera in cameras.split(1, 1)], 1)


def means(
    model: ForwardRegression, context: Observations, cameras: Float[Tensor, "c v 4 4"], chunk: int = 64
) -> Float[Tensor, "c 1 v 3 h w"]:
    """The deterministic answers: every view is asked for by itself, as it is trained."""
    views = [
        torch.cat([looks(model.sample(context[rows], c).signal, c) for c in cameras[rows].split(1, 1)], 1)
        for rows in torch.arange(len(cameras), device=cameras.device).split(chunk)
    ]
    return torch.cat(views)[:, None]


# --- measures ---------------------------------------------------------------------------------------------------------


def factors(views: Float[Tensor, "c k 3 h w"], exam: Exam) -> Int[Tensor, "c f k"]:
    """The hidden factors that pictures at 180 degrees show."""
    camera, side = exam.cameras[:, DEGREES.index(180), :1], views.shape[-1]
    read = [tabletop.read(views, *tabletop.guesses(exam.scenes, camera, name, side=side)) for name in tabletop.FACTORS]
    return torch.stack(read, 1)


def judge(
    exam: Exam,
    answers: Float[Tensor, "c k d v 3 h w"],
    baseline: Float[Tensor, "c 1 all v 3 h w"] | None = None,
    degrees: tuple[int, ...] = DEGREES,
    seed: int = 0,
) -> dict[str, float]:
    """All measures of a sampler, named as in metrics.json; some need a deterministic model's answers.

    factor_tv is that of the factor that has the larger one; factor_scene_rms is of all factors together.

    degrees: those of DEGREES that are answered, 180 among them; the baseline has answers to all
    """
    generator, numbers = torch.Generator().manual_seed(seed), {}

    for i, turn in enumerate(degrees):
        d = DEGREES.index(turn)
        for v, novel in enumerate(("", "novel_")):
            name = f"{novel}{{}}_{turn}".format
            drawn, truth = answers[:, :, i, v].cpu(), exam.truth[:, d, v].cpu()
            hidden = exam.unseen[:, d, v, None].expand_as(truth).cpu()
            numbers |= metrics.spread_skill(drawn, truth, generator, hidden).named(name("spread_skill"))
            sharpness = metrics.total_variation(drawn).mean() / metrics.total_variation(truth).mean()
            inside, outside = metrics.variance_inside_outside(drawn, ~hidden)
            over = outside / inside if inside else math.inf  # of a few true draws, none may vary where all is seen
            numbers |= {name("sharpness_ratio"): sharpness, name("variance_unseen_over_seen"): over}
            pictures = {"sample": drawn[:, 0], "mean": drawn.mean(1), "best": metrics.best_of(drawn, truth)}
            pictures["redrawn"] = exam.redrawn[:, 0, d, v].cpu()
            if baseline is not None:
                pictures["deterministic"] = mean = baseline[:, 0, d, v].cpu()
                scores = metrics.energy_score(drawn, truth), metrics.point_score(mean, truth)
                best = metrics.energy_score(exam.redrawn[:, :, d, v].cpu(), truth)
                numbers |= metrics.energy_ratio(*scores, generator).named(name("energy_ratio"))
                numbers |= metrics.energy_skill(*scores, best, generator).named(name("energy_skill"))
                pair = metrics.mean_mse(drawn, truth), metrics.squared_error(mean, truth)
                gain = metrics.bootstrap(lambda m, b: 10 * (b.mean() / m.mean()).log10(), *pair, generator=generator)
                numbers |= gain.named(name("psnr_mean_over_deterministic"))
            numbers |= {name(f"psnr_{what}"): metrics.psnr(picture, truth, 2) for what, picture in pictures.items()}
            numbers[name("psnr_seen")] = metrics.psnr(drawn[:, 0], truth, 2, ~hidden)
    behind = answers[:, :, degrees.index(180), 0].to(exam.truth)
    shown = torch.cat([exam.truth[:, None, DEGREES.index(180), 0], behind], 1)
    truly, labels = factors(shown, exam).cpu().split([1, answers.shape[1]], 2)
    odds = exam.scenes.odds.double().cpu()
    for i, name in enumerate(tabletop.FACTORS):
        numbers |= metrics.factor_tv(labels[:, i], odds[:, i], generator).named(f"{name}_factor_tv")
        numbers |= metrics.factor_scene_rms(labels[:, i], odds[:, i], generator).named(f"{name}_factor_scene_rms")
    # of categories that have nothing in common but their numbers, opposite errors would cancel if they were pooled
    worst = max(tabletop.FACTORS, key=lambda name: numbers[f"{name}_factor_tv"])
    numbers |= {f"factor_tv{end}": numbers[f"{worst}_factor_tv{end}"] for end in ("", "_low", "_high")}
    numbers |= metrics.factor_scene_rms(labels.flatten(0, 1), odds.flatten(0, 1), generator).named("factor_scene_rms")
    numbers["readings_right"] = (truly[..., 0] == exam.scenes.factor.cpu()).double().mean()
    return {name: float(value) for name, value in numbers.items()}


# --- an orbit ---------------------------------------------------------------------------------------------------------

ROUND = (120, 240)  # degrees of the targets; one after another joins the context
FRAMES = 18


def orbit(
    model: ForwardDiffusion, exam: Exam, k: int = 2, steps: int = STEPS, frames: int = FRAMES, seed: int = 0, **options
) -> Image:
    """k scenes for each of the exam's, sampled with the targets of ROUND, and F `frames` of each from all around.

    The pictures (c k, F, ...) begin at the context's camera.
    """
    fronts = exam.context.params.repeat_interleave(k, 0)
    targets = torch.cat([tabletop.turned(fronts, d) for d in ROUND], 1)
    generator = torch.Generator().manual_seed(seed)
    step, _ = model.sample_autoregressive(exam.context.repeat(k), targets, steps=steps, generator=generator, **options)
    shots = [step.signal.render(tabletop.turned(fronts, 360 * i / frames)) for i in range(frames)]
    return Image(*(torch.cat(part, 1) for part in zip(*shots, strict=True)))


def solid_depth(image: Image) -> Float[Tensor, "b m h w"]:
    """Depth where most of the light ends; inf where it goes on."""
    return torch.where(image.opacity > 0.5, image.depth, torch.inf)


# --- the commands -----------------------------------------------------------------------------------------------------


def weights(arm: str, folder: Path, side: int = SIDE) -> Path:
    """Where `train` left an arm's weights. ValueError if it did not."""
    path = folder / f"{named(arm, side)}.safetensors"
    if not path.is_file():
        raise ValueError(f"there is no {path}: train it first")
    return path


def trained(arm: str, folder: Path, device: torch.device, side: int = SIDE) -> ForwardDiffusion:
    """A model with the weights that `train` left in the folder. ValueError where it left none."""
    return with_weights(arm, load_file(weights(arm, folder, side)), side=side).to(device)


def quick(arm: str, folder: Path, device: torch.device, side: int = SIDE) -> ForwardDiffusion:
    """The same for many samples: on a GPU its networks are compiled."""
    model = trained(arm, folder, device, side)
    if device.type == "cuda":
        compile_networks(model)
    return model


def pretrained(arm: str = "unet") -> ForwardDiffusion:
    """The model that is shipped."""
    return with_weights(arm, load_pretrained(f"{NAME}_{arm}"))


def examine(folder: Path, arm: str, count: int = COUNT, k: int = K, steps: int = STEPS) -> None:
    """Judges a model in the folder against the deterministic one there; keeps what figures show of it."""
    started = time.monotonic()
    device, fast = sampling_device()
    model, deterministic = (quick(name, folder, device) for name in (arm, BASELINE))
    paper, drawn = exam(count, k, device=device), {}
    for eta, degrees in ETAS[arm].items():
        began = time.monotonic()
        with fast:
            answers = answer(model, paper, k, steps, eta, degrees=degrees)
        drawn[eta] = answers, (time.monotonic() - began) / (count * k * len(degrees))
        print(f"{arm}, eta {eta}: {drawn[eta][1]:.3f} seconds a sample", flush=True)
    with fast:
        baseline = answer(deterministic, paper)
    first, numbers = slice(min(EXAMPLES, count)), {}
    kept = {
        "context": levels(paper.context.value[first, 0]),
        "truth": levels(paper.truth[first]),
        "deterministic": levels(baseline[first, 0], 64),
    }
    for eta, (answers, seconds) in drawn.items():
        degrees, name = ETAS[arm][eta], f"{arm}_eta_{eta}"
        numbers[name] = judge(paper, answers, baseline, degrees) | {"seconds_a_sample": seconds}
        print(name, json.dumps({key: round(value, 3) for key, value in numbers[name].items()}), flush=True)
        if name == sampler("unet"):  # of all others numbers are told, not pictures
            kept[name] = levels(answers[first, :4], 64)
            kept[f"{name}_deviation"] = _coarse(answers[first].std(1).mean(-3), 1 / 128)
        labels = factors(answers[:, :, degrees.index(180), 0], paper)
        kept[f"{name}_labels"] = labels.byte().cpu().numpy()
        command = f"{COMMAND} examine {arm} --scenes {count} --samples {k} --steps {steps}"
        _keep(folder / f"examination_{arm}.npz", kept, command, started, numbers)


def _coarse(x: Float[Tensor, "*shape"], step: float) -> np.ndarray:
    """In whole steps and half precision, which packs small: enough for a picture."""
    return ((x / step).round() * step).half().cpu().numpy()


def go_round(folder: Path, arm: str, steps: int = STEPS) -> None:
    """Keeps a few scenes as they are seen from all around."""
    started = time.monotonic()
    device, fast = sampling_device()
    with fast:
        around = orbit(trained(arm, folder, device), exam(ORBITS, device=device), steps=steps)
    kept = {"orbit": levels(around.rgb, 64), "orbit_depth": _coarse(solid_depth(around), 1 / 64)}
    _keep(folder / f"orbit_{arm}.npz", kept, f"{COMMAND} orbit {arm} --steps {steps}", started)


def keep_live(folder: Path, arm: str) -> None:
    """Keeps what a CPU is to compute again, in single precision: the first target's view."""
    started = time.monotonic()
    device, _ = sampling_device()
    paper = exam(LIVE["count"], LIVE["k"], device=device)
    live = answer(trained(arm, folder, device), paper, LIVE["k"], LIVE["steps"], degrees=DEGREES[:1])[:, :, :, :1]
    _keep(folder / f"live_{arm}.npz", {"live": live.half().cpu().numpy()}, f"{COMMAND} live {arm}", started)


def sampling_device() -> tuple[torch.device, AbstractContextManager]:
    """The device to sample on, and bfloat16 where that is safe, on a GPU."""
    device = default_device()
    return device, autocast_bf16(device, device.type == "cuda")


def _keep(path: Path, arrays: dict[str, np.ndarray], command: str, started: float, numbers: dict | None = None) -> None:
    """Arrays with what `ship` is to know of where they come from; started: by time.monotonic()."""
    minutes = (time.monotonic() - started) / 60 if torch.cuda.is_available() else 0.0
    told = origin(command) | {"gpu_minutes": minutes, "numbers": numbers or {}}
    np.savez_compressed(path, told=np.array(json.dumps(told)), **arrays)


def sampler(arm: str) -> str:
    """The name under which an arm's measures are kept, with its main eta."""
    return f"{arm}_eta_{next(iter(ETAS[arm]))}"


def ship(folder: Path, arm: str) -> None:
    """Puts an arm's weights, all measures and the examples into checkpoints/, with where they come from.

    What is in the record already and not in the folder stays there, other arms' measures for one.
    """
    arrays = load_recorded(NAME) if f"{NAME}.npz" in read_manifest() else {}
    texts = {key: json.loads(str(arrays.get(key, "{}"))) for key in TEXTS}
    for name in ARMS:
        if (path := folder / f"{name}.json").exists():
            record = read_json(path)
            texts["curves"][name], texts["records"][name] = record.pop("curve"), record
    for path in sorted(folder.glob("*_*.npz")):
        with np.load(path) as found:
            arrays |= dict(found)
        texts["parts"][path.stem] = told = json.loads(str(arrays.pop("told")))
        texts["numbers"] |= told.pop("numbers")
    if cost := read_json(folder / "benchmark.json"):
        texts["parts"]["benchmark"] = {key: cost.pop(key) for key in ("command", "commit", "hardware", "gpu_minutes")}
        texts["benchmark"] = cost
    records, numbers = texts["records"], texts["numbers"]
    trainings = {name: [part for part in (record["before"], record) if part] for name, record in records.items()}
    save_pretrained(
        f"{NAME}_{arm}",
        load_file(weights(arm, folder)),
        metrics={key: round(value, 4) for key, value in numbers[sampler(arm)].items() if key in HEADLINES},
        steps=sum(part["steps"] for part in trainings[arm]),
        **origins(trainings[arm]),
    )
    arrays |= {key: np.array(json.dumps(text)) for key, text in texts.items()}
    metrics = {name: round(found["factor_tv"], 4) for name, found in numbers.items()}
    save_recorded(NAME, arrays, metrics=metrics, **origins([*sum(trainings.values(), []), *texts["parts"].values()]))


def recorded() -> tuple[dict[str, dict[str, float]], dict[str, np.ndarray]]:
    """What `ship` kept: the measures of every arm, and the examples."""
    arrays = load_recorded(NAME)
    return json.loads(str(arrays["numbers"])), arrays


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Examine the models of 06_inverse_graphics, and ship one.")
    parser.add_argument("what", choices=("examine", "orbit", "live", "ship"))
    parser.add_argument("arm", choices=tuple(ARMS))
    parser.add_argument("--out", type=Path, default=Path("build/inverse_graphics"))
    parser.add_argument("--scenes", type=natural, default=COUNT, help="of the examination")
    parser.add_argument("--samples", type=natural, default=K, help="of each scene")
    parser.add_argument("--steps", type=natural, default=STEPS, help="of sampling")
    options = parser.parse_args()
    if options.what == "examine" and options.arm not in ETAS:
        parser.error(f"{options.arm} is not examined: choose one of {', '.join(ETAS)}")
    try:
        if options.what == "examine":
            examine(options.out, options.arm, options.scenes, options.samples, options.steps)
        elif options.what == "orbit":
            go_round(options.out, options.arm, options.steps)
        elif options.what == "live":
            keep_live(options.out, options.arm)
        else:
            ship(options.out, options.arm)
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
