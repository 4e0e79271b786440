"""The table of 07_ablations: baselines, ablations and options of a sampler sit one examination.

    python -m fwdiff_lite.experiments.inverse_graphics.ablations examine unet no_depth view_space --out build/ablations
    python -m fwdiff_lite.experiments.inverse_graphics.ablations ring --out build/ablations
    python -m fwdiff_lite.experiments.inverse_graphics.ablations ship --out build/ablations

The models are those that `train` left in the folder, the deterministic one among them. `examine` draws each row's
samples for the same held-out scenes and judges them as `study` does, and their consistency from view to view; it leaves
row_ROW.json. What is there already from the same command and weights is not made again. `ring` keeps what a scene
looks like from all around. Beside both are pictures, as .npz. `ship` puts all of it into checkpoints/.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from fwdiff_lite import metrics
from fwdiff_lite.colours import to_uint8
from fwdiff_lite.command_line import positive_int
from fwdiff_lite.diffusion import ForwardDiffusion, ForwardRegression
from fwdiff_lite.experiments.inverse_graphics import evaluation
from fwdiff_lite.experiments.inverse_graphics.evaluation import BASELINE, BACK_ANGLES, TARGET_ANGLES, ORBIT_TARGETS, STEPS, TestSet
from fwdiff_lite.experiments.inverse_graphics.train import VARIANTS, SIDE, run_name
from fwdiff_lite.observations import Observations
from fwdiff_lite.problems.inverse_graphics import tabletop
from fwdiff_lite.problems.inverse_graphics.consistency import CovisiblePoints, covisible_points, inconsistency, psnr_interval
from fwdiff_lite.problems.inverse_graphics.viewspace import distil
from fwdiff_lite.storage.checkpoints import load_recorded, save_recorded
from fwdiff_lite.storage.files import read_json, write_json
from fwdiff_lite.storage.provenance import merge_provenance, provenance

NAME = "07_ablations"
COMMAND = "python -m fwdiff_lite.experiments.inverse_graphics.ablations"
COUNT, K = 128, 8  # scenes of the examination, samples of each
ORBIT_ANGLES = tuple(range(10, 360, 30))  # degrees of the pictures that are distilled into one scene: none is examined
FULL_MODEL = "unet"  # the row that others are compared with
SECTIONS = ("training", "row", "ring")  # of what is recorded
GUIDANCE_VARIANT = "guided"  # the arm whose sampler is given options: one that has met empty contexts
SAMPLER_OPTIONS = {
    "plain": {},
    **{f"guidance_{weight:g}": {"guidance": weight} for weight in (1.5, 2.0, 3.0)},
    **{f"temperature_{scale:g}": {"temperature": scale} for scale in (0.85, 0.7)},
    # renders never leave [-1, 1] of themselves: only guidance takes them out, and then there is something to threshold
    **{f"threshold_{quantile:g}": {"guidance": 2.0, "threshold": quantile} for quantile in (0.995, 0.95, 0.9)},
}

Samples = Float[Tensor, "c k d v 3 h w"]  # v: from the target, from the novel camera


# --- what a row of the table answers ----------------------------------------------------------------------------------


def without_context(test_set: TestSet) -> TestSet:
    """The examination of those who are not shown the contexts."""
    return replace(test_set, context=test_set.context.mask_out(torch.ones_like(test_set.context.mask)))


def with_second_context(test_set: TestSet, seed: int = 7) -> TestSet:
    """The examination of those who are shown two pictures of each front, which hide the same."""
    side = test_set.truth.shape[-1]
    cameras = tabletop.draw_front_cameras(test_set.scenes, torch.Generator().manual_seed(seed))
    second = Observations(tabletop.render(test_set.scenes, cameras, side), cameras)
    return replace(test_set, context=test_set.context.append(second))


def sample_deterministic(
    model: ForwardRegression, test_set: TestSet, k: int, steps: int, eta: float, chunk_size: int
) -> Float[Tensor, "c 1 d v 3 h w"]:
    """The deterministic scene for each target, as it looks from there and from the novel camera."""
    views = []
    for cameras in test_set.cameras.unbind(1):
        chunks = torch.arange(len(cameras), device=cameras.device).split(chunk_size)
        scenes = [model.sample(test_set.context[rows], cameras[rows, :1]).signal for rows in chunks]
        views.append(torch.cat([evaluation.render_views(scene, cameras[rows]) for scene, rows in zip(scenes, chunks, strict=True)]))
    return torch.stack(views, 1)[:, None]


def sample_with_options(
    model: ForwardDiffusion, test_set: TestSet, k: int, steps: int, eta: float, chunk_size: int, **options
) -> Float[Tensor, "c k 1 3 3 h w"]:
    """Scenes sampled with options of `model.sample`, seen from behind; the third view is the sampler's own picture.

    With guidance these differ: no scene is guided, only its picture, and the scene is what the model makes of the last.
    """
    generator, contexts, views = torch.Generator().manual_seed(0), test_set.context.repeat(k), []
    cameras = test_set.cameras[:, TARGET_ANGLES.index(180)].repeat_interleave(k, 0)
    for rows in torch.arange(len(cameras), device=cameras.device).split(chunk_size):
        step = model.sample(contexts[rows], cameras[rows, :1], steps=steps, eta=eta, generator=generator, **options)
        views.append(torch.cat([evaluation.render_views(step.signal, cameras[rows]), step.observation], 1))
    return torch.cat(views).unflatten(0, (-1, k))[:, :, None]


def sample_unconditional(model: ForwardDiffusion, test_set: TestSet, k: int, steps: int, eta: float, chunk_size: int) -> Samples:
    """Scenes sampled without any context, seen from where the targets are."""
    return evaluation.sample_posterior(model, without_context(test_set), k, steps, eta, chunk_size=chunk_size, allow_empty=True)


def sample_two_contexts(model: ForwardDiffusion, test_set: TestSet, k: int, steps: int, eta: float, chunk_size: int) -> Samples:
    """Scenes sampled with two pictures in the context."""
    return evaluation.sample_posterior(model, with_second_context(test_set), k, steps, eta, chunk_size=chunk_size)


def sample_view_space(model: ForwardDiffusion, test_set: TestSet, k: int, steps: int, eta: float, chunk_size: int) -> Samples:
    """Pictures sampled by a model that has no scene: every view of one sample by itself, cut off at [-1, 1]."""
    generator, cameras = torch.Generator().manual_seed(0), test_set.cameras.flatten(1, 2).repeat_interleave(k, 0)
    contexts = test_set.context.repeat(k)
    options = {"steps": steps, "eta": eta, "generator": generator}
    chunks = torch.arange(len(cameras), device=cameras.device).split(max(1, chunk_size // cameras.shape[1]))
    views = torch.cat([model.sample(contexts[rows], cameras[rows], **options).observation for rows in chunks])
    return views.clamp(-1, 1).unflatten(0, (-1, k)).unflatten(2, test_set.cameras.shape[1:3])


def sample_distilled(
    model: ForwardDiffusion, test_set: TestSet, k: int, steps: int, eta: float, chunk_size: int, **options
) -> Samples:
    """The same model's pictures from RING, distilled into one scene for each sample; options: of `distil`."""
    generator, cameras = torch.Generator().manual_seed(0), test_set.cameras.flatten(1, 2).repeat_interleave(k, 0)
    contexts, views = test_set.context.repeat(k), []
    save_orbit_views = torch.cat([tabletop.rotate_about_z(contexts.params, target_angles) for target_angles in ORBIT_ANGLES], 1)
    for rows in torch.arange(len(cameras), device=cameras.device).split(max(1, chunk_size // len(ORBIT_ANGLES))):
        scene, _ = distil(model, contexts[rows], save_orbit_views[rows], generator, steps, eta, **options)
        views.append(evaluation.render_views(scene, cameras[rows]))
    return torch.cat(views).unflatten(0, (-1, k)).unflatten(2, test_set.cameras.shape[1:3])


def sample_through_targets(
    model: ForwardDiffusion, test_set: TestSet, k: int, steps: int, eta: float, chunk_size: int, targets: tuple[int, ...]
) -> Samples:
    """Scenes sampled through targets at so many degrees, each joining the context of the next, and seen from behind."""
    generator, contexts, views = torch.Generator().manual_seed(0), test_set.context.repeat(k), []
    cameras = test_set.cameras[:, TARGET_ANGLES.index(180)].repeat_interleave(k, 0)
    way = torch.cat([tabletop.rotate_about_z(contexts.params, target_angles) for target_angles in targets], 1)
    for rows in torch.arange(len(way), device=way.device).split(chunk_size):
        options = {"steps": steps, "eta": eta, "generator": generator}
        step, _ = model.sample_autoregressive(contexts[rows], way[rows], **options)
        views.append(evaluation.render_views(step.signal, cameras[rows]))
    return torch.cat(views).unflatten(0, (-1, k))[:, :, None]


def sample_prior(test_set: TestSet, k: int, seed: int) -> Samples:
    """k fresh scenes for each of the exam's, seen by its cameras: what can be known without any context."""
    side, cameras = test_set.truth.shape[-1], test_set.cameras.flatten(1, 2).repeat_interleave(k, 0)
    fresh = tabletop.draw_scenes(len(cameras), torch.Generator().manual_seed(seed)).to(cameras.device)
    chunks = torch.arange(len(cameras), device=cameras.device).split(16)
    views = torch.cat([tabletop.render(fresh[rows], cameras[rows], side) for rows in chunks])
    return views.unflatten(0, (-1, k)).unflatten(2, test_set.cameras.shape[1:3])


def shuffle_views(samples: Samples) -> Samples:
    """Samples whose views are of different ones: each view by itself is as good as before."""
    target, novel = samples.unbind(3)
    return torch.stack([target, novel.roll(1, 1)], 3)


@dataclass(frozen=True)
class Ablation:
    """A row of the table: an arm, how it answers (model, exam, k, steps, eta, chunk), and at which of DEGREES.

    Without an arm there is no model: these are true draws, for what a perfect sampler would score.
    blind: whether it has no context, and true draws of what it should follow are those of `prior`
    samples, eta: of sampling; shown: scenes and samples of which pictures are kept; views: and which of their views
    """

    variant: str | None
    answer: Callable[..., Samples] = evaluation.sample_posterior
    target_angles: tuple[int, ...] = TARGET_ANGLES
    blind: bool = False
    num_samples: int = K
    eta: float = 1.0
    shown: tuple[int, int] = (3, 1)
    views: tuple[int, int] = (0, 1)


ABLATIONS = {
    **{variant: Ablation(variant) for variant in VARIANTS if variant != GUIDANCE_VARIANT},
    "deterministic": Ablation(BASELINE, sample_deterministic),
    "around_two": Ablation("around", sample_two_contexts),
    "one_shot": Ablation("around", partial(sample_through_targets, targets=ORBIT_TARGETS[:1]), BACK_ANGLES),
    "autoregressive": Ablation("around", partial(sample_through_targets, targets=ORBIT_TARGETS), BACK_ANGLES),
    "view_space": Ablation("view_space", sample_view_space),
    "distilled": Ablation("view_space", sample_distilled, num_samples=2),  # each is an optimisation
    "unconditional": Ablation("unconditional", sample_unconditional, blind=True),
    "redrawn": Ablation(None, lambda _, test_set, k, *rest, **more: test_set.posterior_draws[:, :k]),
    "mixed": Ablation(None, lambda _, test_set, k, *rest, **more: shuffle_views(test_set.posterior_draws[:, :k])),
    "prior": Ablation(None, lambda _, test_set, k, *rest, **more: sample_prior(test_set, k, seed=1), blind=True),
    **{
        name: Ablation(GUIDANCE_VARIANT, partial(sample_with_options, **options), BACK_ANGLES, eta=0.0, shown=(1, 4), views=(0, 2))
        for name, options in SAMPLER_OPTIONS.items()
    },
}

# --- measures ---------------------------------------------------------------------------------------------------------


def consistency_points(test_set: TestSet, target_angles: tuple[int, ...] = TARGET_ANGLES, redraws: int = evaluation.MASK_DRAWS) -> list[CovisiblePoints]:
    """Which of a target's pixels show what the novel camera sees and the context does not, at each of degrees."""
    generator, side = torch.Generator().manual_seed(0), test_set.truth.shape[-1]
    scenes = [test_set.scenes, *(tabletop.resample_hidden(test_set.scenes, generator) for _ in range(redraws))]
    found = []
    for d in map(TARGET_ANGLES.index, target_angles):
        points = covisible_points(scenes, test_set.cameras[:, d, :1], test_set.cameras[:, d, 1:], side)
        found.append(points._replace(mask=points.mask & test_set.disocclusion_mask[:, d, 0]))
    return found


def mode_bias(labels: Int[Tensor, "c f k"], scenes: tabletop.Scenes, generator: torch.Generator) -> metrics.Interval:
    """How much too often samples hold what is the likeliest in their scene: above 0, they lean towards the mode."""
    odds, likeliest = scenes.factor_probabilities.double().cpu().max(-1)  # (c, f)
    often = (labels.cpu() == likeliest[..., None]).double().mean(-1)
    return metrics.bootstrap(torch.mean, (often - odds).mean(1), generator=generator)


def relative_sliced_w2(
    drawn: Float[Tensor, "c k 3 h w"], truth: Float[Tensor, "c k 3 h w"], others: Float[Tensor, "c k 3 h w"]
) -> float:
    """How far samples are, as a set, from two sets of true draws, over how far these are from each other: 1 is perfect.

    Sliced W2 of whole pictures.
    """
    drawn, truth, others = (x.flatten(0, 1).flatten(1).cpu() for x in (drawn, truth, others))
    pairs = (drawn, truth), (drawn, others), (truth, others)
    first, second, floor = (metrics.sliced_w2(*pair, torch.Generator().manual_seed(0)) for pair in pairs)
    return (first + second) / (2 * floor)


def evaluate_ablation(
    test_set: TestSet,
    samples: Samples,
    baseline: Float[Tensor, "c 1 all two 3 h w"],
    ablation: Ablation,
    points: list[CovisiblePoints],
    seed: int = 0,
) -> dict[str, dict]:
    """All that is told of a row: "numbers", as of `study.judge` and more, and "each", scores of every scene.

    energy_DEGREES, novel_energy_DEGREES: the energy score, of a single answer its distance; for each scene, too
    consistency_DEGREES: in dB; for each scene, the squared difference
    lean: how much too often samples hold what is the likeliest
    picture_energy_180, picture_lean: of a third view, which is the sampler's own picture. Without guidance it differs
        from what the scene shows as well, since a sampler's picture has one ray a pixel
    Of a blind row, whose scenes are others, beside its energy only set_distance_DEGREES and novel_set_distance_DEGREES
    as of `set_distance`, and sharpness_ratio_DEGREES over true draws.
    """
    generator, k = torch.Generator().manual_seed(seed), samples.shape[1]
    numbers, per_scene = {}, {}
    truths = [sample_prior(test_set, k, seed=seed) for seed in (2, 3)] if ablation.blind else []

    for i, turn in enumerate(ablation.target_angles):
        d = TARGET_ANGLES.index(turn)
        for v, novel in enumerate(("", "novel_")):
            drawn, name = samples[:, :, i, v].cpu(), f"{novel}{{}}_{turn}".format
            per_scene[name("energy")] = _energies(drawn, test_set.truth[:, d, v].cpu())
            if truths:
                some, others = (truth[:, :, d, v].cpu() for truth in truths)
                numbers[name("set_distance")] = relative_sliced_w2(drawn, some, others)
                sharpness = metrics.total_variation(drawn).mean() / metrics.total_variation(some).mean()
                numbers[name("sharpness_ratio")] = float(sharpness)
        if not ablation.blind:
            error = inconsistency(samples[:, :, i, 0], samples[:, :, i, 1], points[d]).cpu()
            per_scene[f"consistency_{turn}"] = error
            numbers |= psnr_interval(error, generator).named(f"consistency_{turn}")
    numbers |= {name: float(energy.mean()) for name, energy in per_scene.items() if "energy" in name}
    if k > 1 and not ablation.blind:
        numbers |= evaluation.evaluate(test_set, samples[:, :, :, :2], baseline, ablation.target_angles)
        behind = samples[:, :, ablation.target_angles.index(180)]
        labels = evaluation.classify_factors(behind[:, :, 0], test_set)
        numbers |= mode_bias(labels, test_set.scenes, generator).named("lean")
        if behind.shape[2] == 3:
            picture = behind[:, :, 2]
            numbers |= mode_bias(evaluation.classify_factors(picture, test_set), test_set.scenes, generator).named("picture_lean")
            truth = test_set.truth[:, TARGET_ANGLES.index(180), 0]
            numbers["picture_energy_180"] = float(_energies(picture.cpu(), truth.cpu()).mean())
    per_scene = {name: [float(f"{value:.6g}") for value in values.tolist()] for name, values in per_scene.items()}
    numbers = {name: value for name, value in numbers.items() if not math.isinf(value)}  # of no error at all
    return {"numbers": numbers, "each": per_scene}


def _energies(drawn: Float[Tensor, "c k 3 h w"], truth: Float[Tensor, "c 3 h w"]) -> Float[Tensor, "c"]:
    return metrics.energy_score(drawn, truth) if drawn.shape[1] > 1 else metrics.euclidean_error(drawn[:, 0], truth)


def paired_gains(ours: dict[str, list[float]], theirs: dict[str, list[float]], seed: int = 0) -> dict[str, metrics.Interval]:
    """By how much we are better than they, paired over the scenes, in each measure that both have.

    Of an energy score: how much more theirs is, over ours; "energies": of the sum of all. Of consistency: how many dB
    more ours is.
    """
    generator, found = torch.Generator().manual_seed(seed), {}
    both = {
        name: [torch.tensor(x[name], dtype=torch.float64) for x in (ours, theirs)] for name in ours if name in theirs
    }
    energies = [pair for name, pair in both.items() if "energy" in name]
    both["energies"] = [sum(part) for part in zip(*energies, strict=True)]
    for name, (mine, other) in both.items():
        if name.startswith("consistency"):
            gain = lambda m, o: 10 * (o.mean() / m.mean()).log10()  # noqa: E731
            found[name] = metrics.bootstrap(gain, mine, other, generator=generator)
        else:
            found[name] = metrics.energy_gap(other, mine, generator)
    return found


# --- the commands -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EvalConfig:
    """How much is examined: scenes, steps of sampling, side of images, samples at once.

    sharing: how many such commands have the device at once, for the record
    """

    count: int = COUNT
    steps: int = STEPS
    side: int = SIDE
    batch: int = 64
    jobs_per_gpu: int = 1

    def __str__(self) -> str:
        parts = f"--count {self.count} --steps {self.steps}"
        return parts + (f" --side {self.side}" if self.side != SIDE else "") + f" --batch {self.batch}"


class Evaluator:
    """An examination ready to be sat: its scenes, the deterministic answers, the points of all pairs of views."""

    def __init__(self, folder: Path, size: EvalConfig):
        self.folder, self.size = folder, size
        self.device, self.fast = evaluation.sampling_device()
        self.test_set = evaluation.make_test_set(size.count, K, side=size.side, device=self.device)
        with self.fast:
            model = evaluation.load_model(BASELINE, folder, self.device, size.side)
            self.baseline = evaluation.sample_posterior(model, self.test_set, chunk_size=size.batch)
        self.points = consistency_points(self.test_set)

    def run(self, ablation: Ablation) -> tuple[dict[str, dict], dict[str, np.ndarray]]:
        """What is told of a row's answers, and pictures of as many as are shown."""
        size = self.size
        model = evaluation.load_model(ablation.variant, self.folder, self.device, size.side) if ablation.variant else None
        with self.fast:
            samples = ablation.sample_posterior(model, self.test_set, ablation.num_samples, size.steps, ablation.eta, chunk_size=size.batch).float()
        scenes, num_samples = ablation.shown
        shown = to_uint8(samples[:scenes, :num_samples, -1, list(ablation.views)], 64)
        return evaluate_ablation(self.test_set, samples, self.baseline, ablation, self.points), {"pictures": shown}


def run_evaluation(names: Iterable[str], folder: Path, size: EvalConfig) -> None:
    """Judges rows of the table; leaves row_NAME.json and row_NAME.npz for each."""
    bench = None
    for name in names:
        path, made = folder / f"row_{run_name(name, size.side)}.json", {"command": f"{COMMAND} examine {name} {size}"}
        paths = [evaluation.weights(variant, folder, size.side) for variant in (ABLATIONS[name].variant, BASELINE) if variant]
        made["weights"] = {path.stem: _sha256(path) for path in paths}
        if made.items() <= read_json(path).items():
            print(f"{name}: there already; delete {path} to examine it anew", flush=True)
            continue
        started, bench = time.monotonic(), bench or Evaluator(folder, size)
        told, pictures = bench.run(ABLATIONS[name])
        np.savez_compressed(path.with_suffix(".npz"), **pictures)
        write_json(path, _record(made["command"], started, size) | made | told)
        keys = ("energy_180", "energy_skill_180", "spread_skill_180", "consistency_180", "set_distance_180", "lean")
        found = {key: round(told["numbers"][key], 3) for key in keys if key in told["numbers"]}
        print(name, json.dumps(found), flush=True)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def save_orbit_views(folder: Path, size: EvalConfig) -> None:
    """Keeps a scene as all of RING see it: painted by view-space diffusion, distilled, and sampled.

    Leaves ring_views.json, with the seconds that painting and distilling took, and ring_views.npz.
    """
    started, (device, fast) = time.monotonic(), evaluation.sampling_device()
    painter, model = (evaluation.load_model(variant, folder, device, size.side) for variant in ("view_space", FULL_MODEL))
    test_set, generator = evaluation.make_test_set(1, 1, side=size.side, device=device), torch.Generator().manual_seed(0)
    cameras = torch.cat([tabletop.rotate_about_z(test_set.context.params, target_angles) for target_angles in ORBIT_ANGLES], 1)
    with fast:
        began = time.monotonic()
        scenes, painted = distil(painter, test_set.context, cameras, generator, size.steps, eta=1.0)
        seconds = time.monotonic() - began
        behind = test_set.cameras[:, TARGET_ANGLES.index(180), :1]
        step = model.sample(test_set.context, behind, steps=size.steps, eta=1.0, generator=generator)
        sampled, distilled = (evaluation.render_views(scene, cameras) for scene in (step.signal, scenes))
    views = {"painted": painted.clamp(-1, 1), "distilled": distilled, FULL_MODEL: sampled}
    path, command = folder / "ring_views.json", f"{COMMAND} ring --steps {size.steps}"
    np.savez_compressed(path.with_suffix(".npz"), **{name: to_uint8(view, 64) for name, view in views.items()})
    write_json(path, _record(command, started, size) | {"seconds": seconds})


def _record(command: str, started: float, size: EvalConfig) -> dict:
    minutes = (time.monotonic() - started) / 60 / size.jobs_per_gpu if torch.cuda.is_available() else 0.0
    return provenance(command) | {"gpu_minutes": minutes, "seed": 0}


def export_checkpoint(folder: Path) -> None:
    """Puts what trainings, `examine` and `ring` left in the folder into checkpoints/07_ablations.npz.

    Of trainings all but their curves. ValueError without any row, or where two are of different weights of one arm.
    """
    texts, arrays, weights = {kind: {} for kind in SECTIONS}, {}, {}
    for path in sorted(folder.glob("*.json")):
        kind, _, name = path.stem.partition("_")
        record = read_json(path)
        for variant, digest in record.get("weights", {}).items():
            if weights.setdefault(variant, digest) != digest:
                raise ValueError(f"{path} is of other weights of {variant} than rows before: examine all of them anew")
        if kind in SECTIONS:
            texts[kind][name] = record
            with np.load(path.with_suffix(".npz")) as found:
                arrays |= {f"{path.stem}_{key}": value for key, value in found.items()}
        elif "curve" in record:
            texts["training"][path.stem] = {key: value for key, value in record.items() if key != "curve"}
    if not texts["row"]:
        raise ValueError(f"{folder} holds no row: examine some first")
    parts = [record for kind in texts.values() for record in kind.values()]
    arrays |= {key: np.array(json.dumps(text)) for key, text in texts.items()}
    skilled = {name: ablation["numbers"] for name, ablation in texts["row"].items() if "energy_skill_180" in ablation["numbers"]}
    scores = {name: round(numbers["energy_skill_180"], 4) for name, numbers in skilled.items()}
    save_recorded(NAME, arrays, metrics=scores, **merge_provenance(parts))


def load_results() -> tuple[dict[str, dict], dict[str, np.ndarray]]:
    """What `ship` kept: of each of KINDS what its command left, by name, and the pictures."""
    arrays = load_recorded(NAME)
    return {kind: json.loads(str(arrays.pop(kind))) for kind in SECTIONS}, arrays


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Compare baselines, ablations and options of sampling.")
    parser.add_argument("what", choices=("examine", "ring", "ship"))
    parser.add_argument("rows", nargs="*", help="of the table, to be examined; default: all")
    parser.add_argument("--out", type=Path, default=Path("build/ablations"))
    parser.add_argument("--count", type=positive_int, default=COUNT, help="scenes of the examination")
    parser.add_argument("--steps", type=positive_int, default=STEPS, help="of sampling")
    parser.add_argument("--side", type=positive_int, default=SIDE, help="pixels along a side of an image")
    parser.add_argument("--batch", type=positive_int, default=64, help="samples at once")
    parser.add_argument("--sharing", type=positive_int, default=1, help="how many such commands have the device at once")
    options = vars(parser.parse_args())
    what, rows, folder = (options.pop(key) for key in ("what", "rows", "out"))
    if unknown := [ablation for rows in rows if ablation not in ABLATIONS]:
        parser.error(f"unknown {', '.join(unknown)}: choose from {', '.join(ABLATIONS)}")
    if rows and what != "examine":
        parser.error(f"{what} takes no rows")
    if not 2 <= options["count"] <= COUNT:
        parser.error(f"the examination has {COUNT} scenes, and intervals need two: --count is {options['count']}")
    try:
        if what == "examine":
            run_evaluation(rows or ABLATIONS, folder, EvalConfig(**options))
        elif what == "ring":
            save_orbit_views(folder, EvalConfig(**options))
        else:
            export_checkpoint(folder)
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
