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
from fwdiff_lite.experiments.inverse_graphics.evaluation import BASELINE, BEHIND, DEGREES, ROUND, STEPS, Exam
from fwdiff_lite.experiments.inverse_graphics.train import ARMS, SIDE, named
from fwdiff_lite.observations import Observations
from fwdiff_lite.problems.inverse_graphics import tabletop
from fwdiff_lite.problems.inverse_graphics.consistency import Shared, decibels, inconsistency, shared
from fwdiff_lite.problems.inverse_graphics.viewspace import distil
from fwdiff_lite.storage.checkpoints import load_recorded, save_recorded
from fwdiff_lite.storage.files import read_json, write_json
from fwdiff_lite.storage.provenance import merge_provenance, provenance

NAME = "07_ablations"
COMMAND = "python -m fwdiff_lite.experiments.inverse_graphics.ablations"
COUNT, K = 128, 8  # scenes of the examination, samples of each
RING = tuple(range(10, 360, 30))  # degrees of the pictures that are distilled into one scene: none is examined
FULL = "unet"  # the row that others are compared with
KINDS = ("training", "row", "ring")  # of what is recorded
GUIDED = "guided"  # the arm whose sampler is given options: one that has met empty contexts
OPTIONS = {
    "plain": {},
    **{f"guidance_{weight:g}": {"guidance": weight} for weight in (1.5, 2.0, 3.0)},
    **{f"temperature_{scale:g}": {"temperature": scale} for scale in (0.85, 0.7)},
    # renders never leave [-1, 1] of themselves: only guidance takes them out, and then there is something to threshold
    **{f"threshold_{quantile:g}": {"guidance": 2.0, "threshold": quantile} for quantile in (0.995, 0.95, 0.9)},
}

Answers = Float[Tensor, "c k d v 3 h w"]  # v: from the target, from the novel camera


# --- what a row of the table answers ----------------------------------------------------------------------------------


def without_context(exam: Exam) -> Exam:
    """The examination of those who are not shown the contexts."""
    return replace(exam, context=exam.context.mask_out(torch.ones_like(exam.context.mask)))


def with_second_context(exam: Exam, seed: int = 7) -> Exam:
    """The examination of those who are shown two pictures of each front, which hide the same."""
    side = exam.truth.shape[-1]
    cameras = tabletop.front_cameras(exam.scenes, torch.Generator().manual_seed(seed))
    second = Observations(tabletop.render(exam.scenes, cameras, side), cameras)
    return replace(exam, context=exam.context.append(second))


def answer_once(
    model: ForwardRegression, exam: Exam, k: int, steps: int, eta: float, chunk: int
) -> Float[Tensor, "c 1 d v 3 h w"]:
    """The deterministic scene for each target, as it looks from there and from the novel camera."""
    views = []
    for cameras in exam.cameras.unbind(1):
        rows = torch.arange(len(cameras), device=cameras.device).split(chunk)
        scenes = [model.sample(exam.context[row], cameras[row, :1]).signal for row in rows]
        views.append(torch.cat([evaluation.looks(scene, cameras[row]) for scene, row in zip(scenes, rows, strict=True)]))
    return torch.stack(views, 1)[:, None]


def answer_with_options(
    model: ForwardDiffusion, exam: Exam, k: int, steps: int, eta: float, chunk: int, **options
) -> Float[Tensor, "c k 1 3 3 h w"]:
    """Scenes sampled with options of `model.sample`, seen from behind; the third view is the sampler's own picture.

    With guidance these differ: no scene is guided, only its picture, and the scene is what the model makes of the last.
    """
    generator, contexts, views = torch.Generator().manual_seed(0), exam.context.repeat(k), []
    cameras = exam.cameras[:, DEGREES.index(180)].repeat_interleave(k, 0)
    for row in torch.arange(len(cameras), device=cameras.device).split(chunk):
        step = model.sample(contexts[row], cameras[row, :1], steps=steps, eta=eta, generator=generator, **options)
        views.append(torch.cat([evaluation.looks(step.signal, cameras[row]), step.observation], 1))
    return torch.cat(views).unflatten(0, (-1, k))[:, :, None]


def answer_blindly(model: ForwardDiffusion, exam: Exam, k: int, steps: int, eta: float, chunk: int) -> Answers:
    """Scenes sampled without any context, seen from where the targets are."""
    return evaluation.answer(model, without_context(exam), k, steps, eta, chunk=chunk, allow_empty=True)


def answer_twice(model: ForwardDiffusion, exam: Exam, k: int, steps: int, eta: float, chunk: int) -> Answers:
    """Scenes sampled with two pictures in the context."""
    return evaluation.answer(model, with_second_context(exam), k, steps, eta, chunk=chunk)


def answer_in_views(model: ForwardDiffusion, exam: Exam, k: int, steps: int, eta: float, chunk: int) -> Answers:
    """Pictures sampled by a model that has no scene: every view of one sample by itself, cut off at [-1, 1]."""
    generator, cameras = torch.Generator().manual_seed(0), exam.cameras.flatten(1, 2).repeat_interleave(k, 0)
    contexts = exam.context.repeat(k)
    options = {"steps": steps, "eta": eta, "generator": generator}
    rows = torch.arange(len(cameras), device=cameras.device).split(max(1, chunk // cameras.shape[1]))
    views = torch.cat([model.sample(contexts[row], cameras[row], **options).observation for row in rows])
    return views.clamp(-1, 1).unflatten(0, (-1, k)).unflatten(2, exam.cameras.shape[1:3])


def answer_distilled(
    model: ForwardDiffusion, exam: Exam, k: int, steps: int, eta: float, chunk: int, **options
) -> Answers:
    """The same model's pictures from RING, distilled into one scene for each sample; options: of `distil`."""
    generator, cameras = torch.Generator().manual_seed(0), exam.cameras.flatten(1, 2).repeat_interleave(k, 0)
    contexts, views = exam.context.repeat(k), []
    ring = torch.cat([tabletop.turned(contexts.params, degrees) for degrees in RING], 1)
    for row in torch.arange(len(cameras), device=cameras.device).split(max(1, chunk // len(RING))):
        scene, _ = distil(model, contexts[row], ring[row], generator, steps, eta, **options)
        views.append(evaluation.looks(scene, cameras[row]))
    return torch.cat(views).unflatten(0, (-1, k)).unflatten(2, exam.cameras.shape[1:3])


def answer_through(
    model: ForwardDiffusion, exam: Exam, k: int, steps: int, eta: float, chunk: int, targets: tuple[int, ...]
) -> Answers:
    """Scenes sampled through targets at so many degrees, each joining the context of the next, and seen from behind."""
    generator, contexts, views = torch.Generator().manual_seed(0), exam.context.repeat(k), []
    cameras = exam.cameras[:, DEGREES.index(180)].repeat_interleave(k, 0)
    way = torch.cat([tabletop.turned(contexts.params, degrees) for degrees in targets], 1)
    for row in torch.arange(len(way), device=way.device).split(chunk):
        options = {"steps": steps, "eta": eta, "generator": generator}
        step, _ = model.sample_autoregressive(contexts[row], way[row], **options)
        views.append(evaluation.looks(step.signal, cameras[row]))
    return torch.cat(views).unflatten(0, (-1, k))[:, :, None]


def prior(exam: Exam, k: int, seed: int) -> Answers:
    """k fresh scenes for each of the exam's, seen by its cameras: what can be known without any context."""
    side, cameras = exam.truth.shape[-1], exam.cameras.flatten(1, 2).repeat_interleave(k, 0)
    fresh = tabletop.draw_scenes(len(cameras), torch.Generator().manual_seed(seed)).to(cameras.device)
    rows = torch.arange(len(cameras), device=cameras.device).split(16)
    views = torch.cat([tabletop.render(fresh[row], cameras[row], side) for row in rows])
    return views.unflatten(0, (-1, k)).unflatten(2, exam.cameras.shape[1:3])


def mixed(answers: Answers) -> Answers:
    """Samples whose views are of different ones: each view by itself is as good as before."""
    target, novel = answers.unbind(3)
    return torch.stack([target, novel.roll(1, 1)], 3)


@dataclass(frozen=True)
class Row:
    """A row of the table: an arm, how it answers (model, exam, k, steps, eta, chunk), and at which of DEGREES.

    Without an arm there is no model: these are true draws, for what a perfect sampler would score.
    blind: whether it has no context, and true draws of what it should follow are those of `prior`
    samples, eta: of sampling; shown: scenes and samples of which pictures are kept; views: and which of their views
    """

    arm: str | None
    answer: Callable[..., Answers] = evaluation.answer
    degrees: tuple[int, ...] = DEGREES
    blind: bool = False
    samples: int = K
    eta: float = 1.0
    shown: tuple[int, int] = (3, 1)
    views: tuple[int, int] = (0, 1)


ROWS = {
    **{arm: Row(arm) for arm in ARMS if arm != GUIDED},
    "deterministic": Row(BASELINE, answer_once),
    "around_two": Row("around", answer_twice),
    "one_shot": Row("around", partial(answer_through, targets=ROUND[:1]), BEHIND),
    "autoregressive": Row("around", partial(answer_through, targets=ROUND), BEHIND),
    "view_space": Row("view_space", answer_in_views),
    "distilled": Row("view_space", answer_distilled, samples=2),  # each is an optimisation
    "unconditional": Row("unconditional", answer_blindly, blind=True),
    "redrawn": Row(None, lambda _, exam, k, *rest, **more: exam.redrawn[:, :k]),
    "mixed": Row(None, lambda _, exam, k, *rest, **more: mixed(exam.redrawn[:, :k])),
    "prior": Row(None, lambda _, exam, k, *rest, **more: prior(exam, k, seed=1), blind=True),
    **{
        name: Row(GUIDED, partial(answer_with_options, **options), BEHIND, eta=0.0, shown=(1, 4), views=(0, 2))
        for name, options in OPTIONS.items()
    },
}

# --- measures ---------------------------------------------------------------------------------------------------------


def common_points(exam: Exam, degrees: tuple[int, ...] = DEGREES, redraws: int = evaluation.REDRAWS) -> list[Shared]:
    """Which of a target's pixels show what the novel camera sees and the context does not, at each of degrees."""
    generator, side = torch.Generator().manual_seed(0), exam.truth.shape[-1]
    scenes = [exam.scenes, *(tabletop.redraw_hidden(exam.scenes, generator) for _ in range(redraws))]
    found = []
    for d in map(DEGREES.index, degrees):
        points = shared(scenes, exam.cameras[:, d, :1], exam.cameras[:, d, 1:], side)
        found.append(points._replace(mask=points.mask & exam.unseen[:, d, 0]))
    return found


def lean(labels: Int[Tensor, "c f k"], scenes: tabletop.Scenes, generator: torch.Generator) -> metrics.Interval:
    """How much too often samples hold what is the likeliest in their scene: above 0, they lean towards the mode."""
    odds, likeliest = scenes.odds.double().cpu().max(-1)  # (c, f)
    often = (labels.cpu() == likeliest[..., None]).double().mean(-1)
    return metrics.bootstrap(torch.mean, (often - odds).mean(1), generator=generator)


def set_distance(
    drawn: Float[Tensor, "c k 3 h w"], truth: Float[Tensor, "c k 3 h w"], others: Float[Tensor, "c k 3 h w"]
) -> float:
    """How far samples are, as a set, from two sets of true draws, over how far these are from each other: 1 is perfect.

    Sliced W2 of whole pictures.
    """
    drawn, truth, others = (x.flatten(0, 1).flatten(1).cpu() for x in (drawn, truth, others))
    pairs = (drawn, truth), (drawn, others), (truth, others)
    first, second, floor = (metrics.sliced_w2(*pair, torch.Generator().manual_seed(0)) for pair in pairs)
    return (first + second) / (2 * floor)


def measure(
    exam: Exam,
    answers: Answers,
    baseline: Float[Tensor, "c 1 all two 3 h w"],
    row: Row,
    points: list[Shared],
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
    generator, k = torch.Generator().manual_seed(seed), answers.shape[1]
    numbers, each = {}, {}
    truths = [prior(exam, k, seed=seed) for seed in (2, 3)] if row.blind else []

    for i, turn in enumerate(row.degrees):
        d = DEGREES.index(turn)
        for v, novel in enumerate(("", "novel_")):
            drawn, name = answers[:, :, i, v].cpu(), f"{novel}{{}}_{turn}".format
            each[name("energy")] = _energies(drawn, exam.truth[:, d, v].cpu())
            if truths:
                some, others = (truth[:, :, d, v].cpu() for truth in truths)
                numbers[name("set_distance")] = set_distance(drawn, some, others)
                sharpness = metrics.total_variation(drawn).mean() / metrics.total_variation(some).mean()
                numbers[name("sharpness_ratio")] = float(sharpness)
        if not row.blind:
            error = inconsistency(answers[:, :, i, 0], answers[:, :, i, 1], points[d]).cpu()
            each[f"consistency_{turn}"] = error
            numbers |= decibels(error, generator).named(f"consistency_{turn}")
    numbers |= {name: float(energy.mean()) for name, energy in each.items() if "energy" in name}
    if k > 1 and not row.blind:
        numbers |= evaluation.judge(exam, answers[:, :, :, :2], baseline, row.degrees)
        behind = answers[:, :, row.degrees.index(180)]
        labels = evaluation.factors(behind[:, :, 0], exam)
        numbers |= lean(labels, exam.scenes, generator).named("lean")
        if behind.shape[2] == 3:
            picture = behind[:, :, 2]
            numbers |= lean(evaluation.factors(picture, exam), exam.scenes, generator).named("picture_lean")
            truth = exam.truth[:, DEGREES.index(180), 0]
            numbers["picture_energy_180"] = float(_energies(picture.cpu(), truth.cpu()).mean())
    each = {name: [float(f"{value:.6g}") for value in values.tolist()] for name, values in each.items()}
    numbers = {name: value for name, value in numbers.items() if not math.isinf(value)}  # of no error at all
    return {"numbers": numbers, "each": each}


def _energies(drawn: Float[Tensor, "c k 3 h w"], truth: Float[Tensor, "c 3 h w"]) -> Float[Tensor, "c"]:
    return metrics.energy_score(drawn, truth) if drawn.shape[1] > 1 else metrics.euclidean_error(drawn[:, 0], truth)


def against(ours: dict[str, list[float]], theirs: dict[str, list[float]], seed: int = 0) -> dict[str, metrics.Interval]:
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
class Size:
    """How much is examined: scenes, steps of sampling, side of images, samples at once.

    sharing: how many such commands have the device at once, for the record
    """

    count: int = COUNT
    steps: int = STEPS
    side: int = SIDE
    batch: int = 64
    sharing: int = 1

    def __str__(self) -> str:
        parts = f"--count {self.count} --steps {self.steps}"
        return parts + (f" --side {self.side}" if self.side != SIDE else "") + f" --batch {self.batch}"


class Bench:
    """An examination ready to be sat: its scenes, the deterministic answers, the points of all pairs of views."""

    def __init__(self, folder: Path, size: Size):
        self.folder, self.size = folder, size
        self.device, self.fast = evaluation.sampling_device()
        self.exam = evaluation.exam(size.count, K, side=size.side, device=self.device)
        with self.fast:
            model = evaluation.trained(BASELINE, folder, self.device, size.side)
            self.baseline = evaluation.answer(model, self.exam, chunk=size.batch)
        self.points = common_points(self.exam)

    def sit(self, row: Row) -> tuple[dict[str, dict], dict[str, np.ndarray]]:
        """What is told of a row's answers, and pictures of as many as are shown."""
        size = self.size
        model = evaluation.quick(row.arm, self.folder, self.device, size.side) if row.arm else None
        with self.fast:
            answers = row.answer(model, self.exam, row.samples, size.steps, row.eta, chunk=size.batch).float()
        scenes, samples = row.shown
        shown = to_uint8(answers[:scenes, :samples, -1, list(row.views)], 64)
        return measure(self.exam, answers, self.baseline, row, self.points), {"pictures": shown}


def examine(names: Iterable[str], folder: Path, size: Size) -> None:
    """Judges rows of the table; leaves row_NAME.json and row_NAME.npz for each."""
    bench = None
    for name in names:
        path, made = folder / f"row_{named(name, size.side)}.json", {"command": f"{COMMAND} examine {name} {size}"}
        paths = [evaluation.weights(arm, folder, size.side) for arm in (ROWS[name].arm, BASELINE) if arm]
        made["weights"] = {path.stem: _digest(path) for path in paths}
        if made.items() <= read_json(path).items():
            print(f"{name}: there already; delete {path} to examine it anew", flush=True)
            continue
        started, bench = time.monotonic(), bench or Bench(folder, size)
        told, pictures = bench.sit(ROWS[name])
        np.savez_compressed(path.with_suffix(".npz"), **pictures)
        write_json(path, _record(made["command"], started, size) | made | told)
        keys = ("energy_180", "energy_skill_180", "spread_skill_180", "consistency_180", "set_distance_180", "lean")
        found = {key: round(told["numbers"][key], 3) for key in keys if key in told["numbers"]}
        print(name, json.dumps(found), flush=True)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def ring(folder: Path, size: Size) -> None:
    """Keeps a scene as all of RING see it: painted by view-space diffusion, distilled, and sampled.

    Leaves ring_views.json, with the seconds that painting and distilling took, and ring_views.npz.
    """
    started, (device, fast) = time.monotonic(), evaluation.sampling_device()
    painter, model = (evaluation.trained(arm, folder, device, size.side) for arm in ("view_space", FULL))
    paper, generator = evaluation.exam(1, 1, side=size.side, device=device), torch.Generator().manual_seed(0)
    cameras = torch.cat([tabletop.turned(paper.context.params, degrees) for degrees in RING], 1)
    with fast:
        began = time.monotonic()
        scenes, painted = distil(painter, paper.context, cameras, generator, size.steps, eta=1.0)
        seconds = time.monotonic() - began
        behind = paper.cameras[:, DEGREES.index(180), :1]
        step = model.sample(paper.context, behind, steps=size.steps, eta=1.0, generator=generator)
        sampled, distilled = (evaluation.looks(scene, cameras) for scene in (step.signal, scenes))
    views = {"painted": painted.clamp(-1, 1), "distilled": distilled, FULL: sampled}
    path, command = folder / "ring_views.json", f"{COMMAND} ring --steps {size.steps}"
    np.savez_compressed(path.with_suffix(".npz"), **{name: to_uint8(view, 64) for name, view in views.items()})
    write_json(path, _record(command, started, size) | {"seconds": seconds})


def _record(command: str, started: float, size: Size) -> dict:
    minutes = (time.monotonic() - started) / 60 / size.sharing if torch.cuda.is_available() else 0.0
    return provenance(command) | {"gpu_minutes": minutes, "seed": 0}


def ship(folder: Path) -> None:
    """Puts what trainings, `examine` and `ring` left in the folder into checkpoints/07_ablations.npz.

    Of trainings all but their curves. ValueError without any row, or where two are of different weights of one arm.
    """
    texts, arrays, weights = {kind: {} for kind in KINDS}, {}, {}
    for path in sorted(folder.glob("*.json")):
        kind, _, name = path.stem.partition("_")
        record = read_json(path)
        for arm, digest in record.get("weights", {}).items():
            if weights.setdefault(arm, digest) != digest:
                raise ValueError(f"{path} is of other weights of {arm} than rows before: examine all of them anew")
        if kind in KINDS:
            texts[kind][name] = record
            with np.load(path.with_suffix(".npz")) as found:
                arrays |= {f"{path.stem}_{key}": value for key, value in found.items()}
        elif "curve" in record:
            texts["training"][path.stem] = {key: value for key, value in record.items() if key != "curve"}
    if not texts["row"]:
        raise ValueError(f"{folder} holds no row: examine some first")
    parts = [record for kind in texts.values() for record in kind.values()]
    arrays |= {key: np.array(json.dumps(text)) for key, text in texts.items()}
    skilled = {name: row["numbers"] for name, row in texts["row"].items() if "energy_skill_180" in row["numbers"]}
    scores = {name: round(numbers["energy_skill_180"], 4) for name, numbers in skilled.items()}
    save_recorded(NAME, arrays, metrics=scores, **merge_provenance(parts))


def recorded() -> tuple[dict[str, dict], dict[str, np.ndarray]]:
    """What `ship` kept: of each of KINDS what its command left, by name, and the pictures."""
    arrays = load_recorded(NAME)
    return {kind: json.loads(str(arrays.pop(kind))) for kind in KINDS}, arrays


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
    if unknown := [row for row in rows if row not in ROWS]:
        parser.error(f"unknown {', '.join(unknown)}: choose from {', '.join(ROWS)}")
    if rows and what != "examine":
        parser.error(f"{what} takes no rows")
    if not 2 <= options["count"] <= COUNT:
        parser.error(f"the examination has {COUNT} scenes, and intervals need two: --count is {options['count']}")
    try:
        if what == "examine":
            examine(rows or ROWS, folder, Size(**options))
        elif what == "ring":
            ring(folder, Size(**options))
        else:
            ship(folder)
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
