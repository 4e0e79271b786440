"""The table of 07_ablations: baselines and ablations sit one examination, and a sampler's options are swept.

    python -m fwdiff_lite.problems.inverse_graphics.comparisons examine unet no_depth view_space --out build/ablations
    python -m fwdiff_lite.problems.inverse_graphics.comparisons sweep guidance temperature --out build/ablations
    python -m fwdiff_lite.problems.inverse_graphics.comparisons ring --out build/ablations
    python -m fwdiff_lite.problems.inverse_graphics.comparisons ship --out build/ablations

The models are those that `train` left in the folder, the deterministic one among them. `examine` draws each row's
samples for the same held-out scenes and judges them as `study` does, and their consistency from view to view; it leaves
row_ROW.json. `sweep` does so for every value of an option and leaves sweep_OPTION.json. `ring` keeps what a few scenes
look like from all around. Beside them are pictures, as .npz. What is there already from the same command is not made
again. `ship` puts all of it into checkpoints/.
"""

from __future__ import annotations

import argparse
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
from fwdiff_lite.diffusion import ForwardDiffusion
from fwdiff_lite.files import read_json, write_json
from fwdiff_lite.observations import Observations
from fwdiff_lite.plotting import levels
from fwdiff_lite.pretrained import load_recorded, read_manifest, save_recorded
from fwdiff_lite.problems.inverse_graphics import study, tabletop
from fwdiff_lite.problems.inverse_graphics.consistency import Shared, decibels, inconsistency, shared
from fwdiff_lite.problems.inverse_graphics.study import BASELINE, BEHIND, DEGREES, ROUND, STEPS, Exam
from fwdiff_lite.problems.inverse_graphics.train import ARMS, SIDE, named
from fwdiff_lite.problems.inverse_graphics.viewspace import distil
from fwdiff_lite.training import origin, origins

NAME = "07_ablations"
COMMAND = "python -m fwdiff_lite.problems.inverse_graphics.comparisons"
COUNT, K = 128, 8  # scenes of the examination, samples of each
RING = tuple(range(30, 360, 30))  # degrees of the pictures that are distilled into one scene
FULL = "unet"  # the row that others are compared with
SHOWN, SWEPT_SHOWN = (3, 1, 2), (1, 4, 1)  # scenes, samples and views of which pictures from behind are kept
SWEEPS = {  # options of sampling; the first is without them
    "guidance": ({"guidance": 1.0}, {"guidance": 1.5}, {"guidance": 2.0}, {"guidance": 3.0}),
    "temperature": ({"temperature": 1.0}, {"temperature": 0.85}, {"temperature": 0.7}),
    # renders never leave [-1, 1] of themselves: only guidance takes them out, and then there is something to threshold
    "threshold": tuple({"guidance": 2.0, "threshold": quantile} for quantile in (None, 0.995, 0.95, 0.9)),
}
RING_SHOWN = 2  # scenes that are kept as all of RING see them
KINDS = ("training", "row", "sweep", "ring")  # of what is recorded
SWEPT = "guided"  # the arm whose options are swept: one that has met empty contexts

Answers = Float[Tensor, "c k d v 3 h w"]


# --- what a row of the table answers ----------------------------------------------------------------------------------


def without_context(exam: Exam) -> Exam:
    """The examination of those who are not shown the contexts."""
    return replace(exam, context=exam.context.drop(torch.ones_like(exam.context.mask)))


def with_second_context(exam: Exam, seed: int = 7) -> Exam:
    """The examination of those who are shown two pictures of each front, which hide the same."""
    side = exam.truth.shape[-1]
    cameras = tabletop.front_cameras(exam.scenes, torch.Generator().manual_seed(seed))
    second = Observations(tabletop.render(exam.scenes, cameras, side), cameras)
    return replace(exam, context=exam.context.append(second))


def answer_blindly(model: ForwardDiffusion, exam: Exam, k: int, steps: int, eta: float, chunk: int) -> Answers:
    """Scenes sampled without any context, seen from where the targets are."""
    return study.answer(model, without_context(exam), k, steps, eta, chunk=chunk, allow_empty=True)


def answer_twice(model: ForwardDiffusion, exam: Exam, k: int, steps: int, eta: float, chunk: int) -> Answers:
    """Scenes sampled with two pictures in the context."""
    return study.answer(model, with_second_context(exam), k, steps, eta, chunk=chunk)


def answer_in_views(model: ForwardDiffusion, exam: Exam, k: int, steps: int, eta: float, chunk: int) -> Answers:
    """Pictures sampled by a model that has no scene: every view of one sample by itself."""
    generator, cameras = torch.Generator().manual_seed(0), exam.cameras.flatten(1, 2).repeat_interleave(k, 0)
    contexts = exam.context.repeat(k)
    options = {"steps": steps, "eta": eta, "generator": generator}
    rows = torch.arange(len(cameras), device=cameras.device).split(max(1, chunk // cameras.shape[1]))
    views = torch.cat([model.sample(contexts[row], cameras[row], **options).observation for row in rows])
    return views.unflatten(0, (-1, k)).unflatten(2, exam.cameras.shape[1:3])


def answer_distilled(
    model: ForwardDiffusion, exam: Exam, k: int, steps: int, eta: float, chunk: int, **options
) -> Answers:
    """The same model's pictures from RING, distilled into one scene for each sample; options: of `distil`."""
    generator, cameras = torch.Generator().manual_seed(0), exam.cameras.flatten(1, 2).repeat_interleave(k, 0)
    contexts, views = exam.context.repeat(k), []
    ring = torch.cat([tabletop.turned(contexts.params, degrees) for degrees in RING], 1)
    for row in torch.arange(len(cameras), device=cameras.device).split(max(1, chunk // len(RING))):
        scene, _ = distil(model, contexts[row], ring[row], generator, steps, eta, **options)
        views.append(study.looks(scene, cameras[row]))
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
        views.append(study.looks(step.signal, cameras[row]))
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
    """

    arm: str | None
    answer: Callable[..., Answers] = study.answer
    degrees: tuple[int, ...] = DEGREES
    blind: bool = False


ROWS = {
    **{arm: Row(arm) for arm in ARMS},
    "around_two": Row("around", answer_twice),
    "one_shot": Row("around", partial(answer_through, targets=ROUND[:1]), BEHIND),
    "autoregressive": Row("around", partial(answer_through, targets=ROUND), BEHIND),
    "view_space": Row("view_space", answer_in_views),
    "distilled": Row("view_space", answer_distilled),
    "unconditional": Row("unconditional", answer_blindly, blind=True),
    "redrawn": Row(None, lambda _, exam, k, *rest, **more: exam.redrawn[:, :k]),
    "mixed": Row(None, lambda _, exam, k, *rest, **more: mixed(exam.redrawn[:, :k])),
    "prior": Row(None, lambda _, exam, k, *rest, **more: prior(exam, k, seed=1), blind=True),
}

# --- measures ---------------------------------------------------------------------------------------------------------


def common_points(exam: Exam, degrees: tuple[int, ...] = DEGREES, redraws: int = study.REDRAWS) -> list[Shared]:
    """Which of a target's pixels show what the novel camera sees and the context does not, at each of degrees."""
    generator, side = torch.Generator().manual_seed(0), exam.truth.shape[-1]
    scenes = [exam.scenes, *(tabletop.redraw_hidden(exam.scenes, generator) for _ in range(redraws))]
    found = []
    for d in map(DEGREES.index, degrees):
        points = shared(scenes, exam.cameras[:, d, :1], exam.cameras[:, d, 1:], side)
        found.append(points._replace(mask=points.mask & exam.unseen[:, d, 0]))
    return found


def counts(labels: Int[Tensor, "c f k"], scenes: tabletop.Scenes) -> list[list[list[int]]]:
    """How many samples hold what, by the colours that tell the odds: of each factor, cue and category."""
    each = []
    for f in range(labels.shape[1]):
        pairs = scenes.cue[:, f, None].cpu() * 3 + labels[:, f].cpu()
        each.append(torch.bincount(pairs.flatten(), minlength=9).view(3, 3).tolist())
    return each


def lean(labels: Int[Tensor, "c f k"], scenes: tabletop.Scenes, generator: torch.Generator) -> metrics.Interval:
    """How much too often samples hold what is the likeliest in their scene: above 0, they lean towards the mode."""
    odds, likeliest = scenes.odds.double().cpu().max(-1)  # (c, f)
    often = (labels.cpu() == likeliest[..., None]).double().mean(-1)
    return metrics.bootstrap(torch.mean, (often - odds).mean(1), generator=generator)


def measure(
    exam: Exam,
    answers: Answers,
    baseline: Float[Tensor, "c 1 all v 3 h w"],
    row: Row,
    points: list[Shared],
    seed: int = 0,
) -> dict[str, dict]:
    """All that is told of a row: "numbers", as of `study.judge` and more; "each", scores of every scene; "counts".

    energy_DEGREES, novel_energy_DEGREES: the energy score, of a single answer its distance; for each scene, too
    consistency_DEGREES: in dB; for each scene, the squared difference
    set_distance_DEGREES: sliced W2 of samples to true draws over that of true draws to others; 1 is perfect
    lean: how much too often samples hold what is the likeliest
    """
    generator, k = torch.Generator().manual_seed(seed), answers.shape[1]
    numbers, each, told = {}, {}, {}
    truths = prior(exam, k, seed=2) if row.blind else exam.redrawn[:, :k]

    if k > 1:
        numbers |= study.judge(exam, answers, baseline, row.degrees)
        labels = study.factors(answers[:, :, row.degrees.index(180), 0], exam)
        numbers |= lean(labels, exam.scenes, generator).named("lean")
        told["counts"] = counts(labels, exam.scenes)
    for i, turn in enumerate(row.degrees):
        d = DEGREES.index(turn)
        for v, novel in enumerate(("", "novel_")):
            drawn, truth, name = answers[:, :, i, v].cpu(), exam.truth[:, d, v].cpu(), f"{novel}energy_{turn}"
            each[name] = metrics.energy_score(drawn, truth) if k > 1 else metrics.point_score(drawn[:, 0], truth)
            numbers[name] = float(each[name].mean())
            if half := k // 2:
                sets = answers[:, :half, i, v], truths[:, :half, d, v], truths[:, half : 2 * half, d, v]
                *sets, reference = (x.flatten(0, 1).flatten(1).cpu() for x in sets)
                apart = [metrics.sliced_w2(x, reference, torch.Generator().manual_seed(seed)) for x in sets]
                numbers[f"{novel}set_distance_{turn}"] = apart[0] / apart[1]
        each[f"consistency_{turn}"] = inconsistency(answers[:, :, i, 0], answers[:, :, i, 1], points[d]).cpu()
        numbers |= decibels(each[f"consistency_{turn}"], generator).named(f"consistency_{turn}")
    each = {name: [float(f"{value:.6g}") for value in values.tolist()] for name, values in each.items()}
    numbers = {name: value for name, value in numbers.items() if not math.isinf(value)}  # of no error at all
    return {"numbers": numbers, "each": each} | told


def against(ours: dict[str, list[float]], theirs: dict[str, list[float]], seed: int = 0) -> dict[str, metrics.Interval]:
    """By how much we are better than they, paired over the scenes, in each measure that both have.

    Of an energy score: how much more theirs is, over ours. Of consistency: how many dB more ours is.
    """
    generator, found = torch.Generator().manual_seed(seed), {}
    for name in [name for name in ours if name in theirs]:
        mine, other = (torch.tensor(x[name], dtype=torch.float64) for x in (ours, theirs))
        if name.startswith("consistency"):
            gain = lambda m, o: 10 * (o.mean() / m.mean()).log10()  # noqa: E731
            found[name] = metrics.bootstrap(gain, mine, other, generator=generator)
        else:
            found[name] = metrics.energy_gap(other, mine, generator)
    return found


# --- the commands -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Size:
    """How much is examined: scenes, samples of each, steps and eta of sampling, side of images, samples at once.

    sharing: how many such commands have the device at once, for the record
    """

    count: int = COUNT
    samples: int = K
    steps: int = STEPS
    eta: float = 1.0
    side: int = SIDE
    batch: int = 64
    sharing: int = 1

    def __str__(self) -> str:
        parts = f"--count {self.count} --samples {self.samples} --steps {self.steps} --eta {self.eta:g}"
        return parts + (f" --side {self.side}" if self.side != SIDE else "") + f" --batch {self.batch}"


class Bench:
    """An examination ready to be sat: its scenes, the deterministic answers, the points of all pairs of views."""

    def __init__(self, folder: Path, size: Size):
        self.folder, self.size = folder, size
        self.device, self.fast = study.sampling_device()
        self.exam = study.exam(size.count, size.samples, side=size.side, device=self.device)
        with self.fast:
            model = study.trained(BASELINE, folder, self.device, size.side)
            self.baseline = study.answer(model, self.exam)
        self.points = common_points(self.exam)

    def sit(
        self, row: Row, shown: tuple[int, int, int] = SHOWN, **options
    ) -> tuple[dict[str, dict], dict[str, np.ndarray]]:
        """What is told of a row's answers, with the seconds that they took, and pictures of as many as are shown."""
        size, arm = self.size, row.arm
        model = study.quick(arm, self.folder, self.device, size.side) if arm else None
        began = time.monotonic()
        with self.fast:
            answers = row.answer(model, self.exam, size.samples, size.steps, size.eta, chunk=size.batch, **options)
            answers = answers.float()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = (time.monotonic() - began) / answers[..., 0, 0, 0, 0].numel()  # for each scene, sample and degree
        told = measure(self.exam, answers, self.baseline, row, self.points)
        told["numbers"]["seconds_an_answer"] = seconds
        scenes, samples, views = shown
        return told, {"pictures": levels(answers[:scenes, :samples, -1, :views], 64)}


def examine(names: Iterable[str], folder: Path, size: Size) -> None:
    """Judges rows of the table; leaves row_NAME.json and row_NAME.npz for each."""
    bench = None
    for name in names:
        path, command = folder / f"row_{named(name, size.side)}.json", f"{COMMAND} examine {name} {size}"
        if read_json(path).get("command") == command:
            print(f"{name}: there already; delete {path} to examine it anew", flush=True)
            continue
        started, bench = time.monotonic(), bench or Bench(folder, size)
        told, pictures = bench.sit(ROWS[name])
        np.savez_compressed(path.with_suffix(".npz"), **pictures)
        write_json(path, _record(command, started, size) | told)
        _say(name, told["numbers"])


def sweep(names: Iterable[str], folder: Path, size: Size) -> None:
    """Judges an arm that samples with each value of an option; leaves sweep_NAME.json and sweep_NAME.npz for each."""
    bench, row = None, Row(SWEPT, partial(study.answer, degrees=BEHIND), BEHIND)
    for name in names:
        path, command = folder / f"sweep_{named(name, size.side)}.json", f"{COMMAND} sweep {name} {size}"
        if (record := read_json(path)).get("command") != command:
            record = _record(command, time.monotonic(), size) | {"values": {}}
        pictures = dict(np.load(path.with_suffix(".npz"))) if record["values"] else {}
        for options in SWEEPS[name]:
            value = "off" if options[name] is None else f"{options[name]:g}"
            if value in record["values"]:
                continue
            started, bench = time.monotonic(), bench or Bench(folder, size)
            told, seen = bench.sit(row, SWEPT_SHOWN, **options)
            record["values"][value] = told | {"options": options}
            pictures[value] = seen["pictures"]
            record["gpu_minutes"] += _record(command, started, size)["gpu_minutes"]
            np.savez_compressed(path.with_suffix(".npz"), **pictures)
            write_json(path, record)
            _say(f"{name} {value}", told["numbers"])


def ring(folder: Path, size: Size) -> None:
    """Keeps a few scenes as all of RING see them: painted by view-space diffusion, distilled, and sampled.

    Leaves ring_views.json, with the seconds that one distilling took, and ring_views.npz.
    """
    started, (device, fast) = time.monotonic(), study.sampling_device()
    paper, generator = study.exam(RING_SHOWN, 1, side=size.side, device=device), torch.Generator().manual_seed(0)
    cameras = torch.cat([tabletop.turned(paper.context.params, degrees) for degrees in RING], 1)
    with fast:
        painter = study.trained("view_space", folder, device, size.side)
        began = time.monotonic()
        scenes, painted = distil(painter, paper.context, cameras, generator, size.steps, size.eta)
        seconds = (time.monotonic() - began) / RING_SHOWN
        model, behind = study.trained(FULL, folder, device, size.side), paper.cameras[:, DEGREES.index(180), :1]
        step = model.sample(paper.context, behind, steps=size.steps, eta=size.eta, generator=generator)
        views = {"painted": painted, "distilled": study.looks(scenes, cameras), FULL: study.looks(step.signal, cameras)}
    path, command = folder / "ring_views.json", f"{COMMAND} ring --steps {size.steps} --eta {size.eta:g}"
    np.savez_compressed(path.with_suffix(".npz"), **{name: levels(view, 64) for name, view in views.items()})
    write_json(path, _record(command, started, size) | {"seconds": seconds})


def _record(command: str, started: float, size: Size) -> dict:
    minutes = (time.monotonic() - started) / 60 / size.sharing if torch.cuda.is_available() else 0.0
    return origin(command) | {"gpu_minutes": minutes, "seed": 0}


def _say(name: str, numbers: dict[str, float]) -> None:
    keys = ("energy_180", "energy_skill_180", "spread_skill_180", "consistency_180", "factor_tv", "lean")
    print(name, json.dumps({key: round(numbers[key], 3) for key in keys if key in numbers}), flush=True)


def ship(folder: Path) -> None:
    """Puts what trainings, `examine`, `sweep` and `ring` left in the folder into checkpoints/07_ablations.npz.

    What is in the record already and not in the folder stays there.
    """
    texts, arrays = recorded() if f"{NAME}.npz" in read_manifest() else ({kind: {} for kind in KINDS}, {})
    for path in sorted(folder.glob("*.json")):
        kind, _, name = path.stem.partition("_")
        record = read_json(path)
        if kind in KINDS:
            texts[kind][name] = record
            with np.load(path.with_suffix(".npz")) as found:
                arrays |= {f"{path.stem}_{key}": value for key, value in found.items()}
        elif "curve" in record:
            texts["training"][path.stem] = record
    parts = [record for kind in texts.values() for record in kind.values()]
    arrays |= {key: np.array(json.dumps(text)) for key, text in texts.items()}
    scores = {name: round(row["numbers"]["energy_180"], 4) for name, row in texts["row"].items()}
    save_recorded(NAME, arrays, metrics=scores, **origins(parts))


def recorded() -> tuple[dict[str, dict], dict[str, np.ndarray]]:
    """What `ship` kept: of each of KINDS what its command left, by name, and the pictures."""
    arrays = load_recorded(NAME)
    return {kind: json.loads(str(arrays.pop(kind))) for kind in KINDS}, arrays


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Compare baselines, ablations and options of sampling.")
    parser.add_argument("what", choices=("examine", "sweep", "ring", "ship"))
    parser.add_argument("names", nargs="*", help="rows of the table, or options of sampling; default: all")
    parser.add_argument("--out", type=Path, default=Path("build/ablations"))
    parser.add_argument("--count", type=int, default=COUNT, help="scenes of the examination")
    parser.add_argument("--samples", type=int, default=K, help="of each scene")
    parser.add_argument("--steps", type=int, default=STEPS, help="of sampling")
    parser.add_argument("--eta", type=float, default=1.0, help="of sampling: 1 is ancestral, 0 is DDIM")
    parser.add_argument("--side", type=int, default=SIDE, help="pixels along a side of an image")
    parser.add_argument("--batch", type=int, default=64, help="samples at once")
    parser.add_argument("--sharing", type=int, default=1, help="how many such commands have the device at once")
    options = vars(parser.parse_args())
    what, names, folder = (options.pop(key) for key in ("what", "names", "out"))
    known = {"examine": ROWS, "sweep": SWEEPS}.get(what, {})
    if unknown := [name for name in names if name not in known]:
        parser.error(f"unknown {', '.join(unknown)}: choose from {', '.join(known) or 'none'}")
    folder.mkdir(parents=True, exist_ok=True)
    if what == "ship":
        ship(folder)
    elif what == "ring":
        ring(folder, Size(**options))
    else:
        {"examine": examine, "sweep": sweep}[what](names or known, folder, Size(**options))


if __name__ == "__main__":
    main()
