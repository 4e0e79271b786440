"""The test set of 05_flatland, and the baseline and the variant that the notebook loads.

    python -m fwdiff_lite.experiments.flatland

trains the deterministic baseline and a model without the novel loss, and keeps their samples in checkpoints/.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fwdiff_lite import metrics
from fwdiff_lite.colours import to_uint8
from fwdiff_lite.command_line import positive_int
from fwdiff_lite.diffusion import ForwardDiffusion, ForwardRegression
from fwdiff_lite.observations import Observations
from fwdiff_lite.problems.inverse_graphics.flatland import (
    LOOK,
    ROOMS,
    Scenes,
    batches,
    before,
    camera,
    contents,
    draw_scenes,
    from_above,
    look,
    observe,
    redraw,
    repeat,
    untrained,
    walls,
)
from fwdiff_lite.problems.inverse_graphics.pixelnerf import RadianceField, join
from fwdiff_lite.storage.checkpoints import save_recorded
from fwdiff_lite.training import TrainingLog, fit

STEPS = 1500  # of training, for every arm
RATE = {"learning_rate": 1.2e-2, "ema": 0.995}
NAME = "05_flatland"
HIDDEN = torch.tensor([False] + [True] * (ROOMS - 1))  # the context stands before the first room
COUNT, K = 64, 8  # scenes of the examination, samples of each
AT_ONCE = 8  # scenes that are sampled together


@dataclass(frozen=True)
class Exam:
    """c scenes, of which a camera before the first room is the context.

    targets: (c, 2, 4, 4) cameras before the other rooms; views: (c, v, 4, 4) those and others between them, from which
        samples are judged, with the truth (c, v, 3, 1, w) and what else could have been seen (c, K, v, 3, 1, w)
    """

    scenes: Scenes
    context: Observations
    targets: Float[Tensor, "c r 4 4"]
    views: Float[Tensor, "c v 4 4"]
    truth: Float[Tensor, "c v 3 1 w"]
    redrawn: Float[Tensor, "c k v 3 1 w"]


class Answer(NamedTuple):
    """Sampled scenes, (c K) of them, and how they look from the exam's views."""

    field: RadianceField
    views: Float[Tensor, "c k v 3 1 w"]


def exam(count: int = COUNT, k: int = K, seed: int = 2026) -> Exam:
    """Always the same scenes for the same numbers."""
    generator = torch.Generator().manual_seed(seed)
    scenes = draw_scenes(count, generator)
    off = LOOK * (2 * torch.rand(count, generator=generator) - 1)
    targets = torch.cat([before(scenes, room) for room in range(1, ROOMS)], 1)
    between = camera(walls(scenes))  # along the walls, where two rooms are seen
    views = torch.cat([targets, between], 1)
    others = redraw(repeat(scenes, k), HIDDEN, generator)
    redrawn = look(others, views.repeat_interleave(k, 0)).unflatten(0, (count, k))
    return Exam(scenes, observe(scenes, before(scenes, 0, off)), targets, views, look(scenes, views), redrawn)


def answer(
    model: ForwardDiffusion, exam: Exam, k: int = K, steps: int = 24, eta: float = 0.0, seed: int = 0
) -> list[Answer]:
    """k sampled scenes for each of the exam's, one after another: after one target, after two targets.

    The targets stand before the rooms that the context does not see, and each joins the context of the next. A
    ForwardRegression has no use for targets and gives its one answer.
    """
    if isinstance(model, ForwardRegression):
        field = model.sample(exam.context, exam.targets[:, :1]).signal
        return [Answer(field, field.render(exam.views).rgb[:, None])]
    generator, lots = torch.Generator().manual_seed(seed), []
    for rows in torch.arange(len(exam.scenes)).split(AT_ONCE):
        context, views, lot = exam.context[rows].repeat(k), exam.views[rows].repeat_interleave(k, 0), []
        for target in exam.targets[rows].repeat_interleave(k, 0).split(1, 1):
            step, context = model.sample_autoregressive(context, target, steps=steps, eta=eta, generator=generator)
            lot.append(Answer(step.signal, step.signal.render(views).rgb.unflatten(0, (-1, k))))
        lots.append(lot)
    return [
        Answer(join([x.field for x in each]), torch.cat([x.views for x in each])) for each in zip(*lots, strict=True)
    ]


def judge(
    exam: Exam, views: Float[Tensor, "c k v 3 1 w"], baseline: Float[Tensor, "c v 3 1 w"], seed: int = 0
) -> dict[str, float]:
    """All measures of a sampler's answers; baseline: the deterministic ones. Names as in metrics.json.

    first, second: of the room that the first, or the second, target stands before
    """
    generator = torch.Generator().manual_seed(seed)
    labels, odds = contents(views, exam.scenes), exam.scenes.odds[:, None].expand(-1, ROOMS - 1, -1).double()
    scores = metrics.energy_score(views, exam.truth), metrics.euclidean_error(baseline, exam.truth)
    best = metrics.energy_score(exam.redrawn, exam.truth)
    ratio, skill = metrics.energy_ratio(*scores, generator), metrics.energy_skill(*scores, best, generator)
    spread = metrics.spread_skill(views, exam.truth, generator)
    numbers = {
        "energy_ratio": ratio.value,
        "energy_ratio_high": ratio.high,
        "energy_skill": skill.value,
        "energy_skill_low": skill.low,
        "spread_skill": spread.value,
        "spread_skill_low": spread.low,
        "spread_skill_high": spread.high,
    }
    for name, rooms in (("", slice(None)), ("_first", slice(0, 1)), ("_second", slice(1, 2))):
        drawn, p = labels[:, rooms].flatten(0, 1), odds[:, rooms].flatten(0, 1)
        tv, rms = metrics.factor_tv(drawn, p, generator), metrics.per_context_calibration_rms(drawn, p, generator)
        numbers |= {f"factor_tv{name}": tv.value, f"factor_tv{name}_low": tv.low, f"factor_tv{name}_high": tv.high}
        numbers |= {f"factor_scene_rms{name}": rms.value, f"factor_scene_rms{name}_high": rms.high}
    return {name: float(value) for name, value in numbers.items()}


ARMS = {"deterministic": {"kind": ForwardRegression}, "no_novel": {"novel_weight": 0.0}}
PICTURES = 4  # scenes of which pictures from above are kept


def train(steps: int = STEPS, seed: int = 0, **options) -> tuple[ForwardDiffusion, TrainingLog]:
    """A model, or another of `untrained`'s kinds, trained as the notebook trains its own."""
    model = untrained(**options)
    return model, fit(model, batches(), steps=steps, seed=seed, progress=False, **RATE)


def headlines(paper: Exam, arrays: dict[str, np.ndarray]) -> dict[str, float]:
    """Of the recorded answers: the deterministic energy score, and what is left without the novel loss."""
    views = {name: torch.from_numpy(arrays[f"{name}_views"]).float() for name in ARMS}
    mean = views["deterministic"][:, 0]
    energy = metrics.euclidean_error(mean, paper.truth).mean()
    skill = judge(paper, views["no_novel"], mean)["energy_skill"]
    return {"deterministic_energy": round(float(energy), 4), "no_novel_energy_skill": round(skill, 4)}


def main() -> None:
    """Trains, examines and keeps the arms."""
    parser = argparse.ArgumentParser(description="Record the baseline and the variant that 05_flatland loads.")
    parser.add_argument("--steps", type=positive_int, default=STEPS, help="training steps of each")
    options = parser.parse_args()
    torch.set_num_threads(1)
    began, paper, arrays = time.process_time(), exam(), {}
    for name, arm in ARMS.items():
        model, done = train(options.steps, **arm)
        last = answer(model, paper)[-1]
        k = last.views.shape[1]
        arrays[f"{name}_views"] = last.views.half().numpy()
        shown = last.field[torch.arange(PICTURES) * k]
        arrays[f"{name}_above"] = to_uint8(from_above(shown))
        print(f"{name}: {done.steps} steps, {done.seconds:.0f} s, losses", done.curve["loss"][-1], flush=True)
    save_recorded(
        NAME,
        arrays,
        metrics=headlines(paper, arrays),
        command="python -m fwdiff_lite.problems.inverse_graphics.flatland",
        seed=0,
        hardware="2-core CPU, one thread",
        minutes=round((time.process_time() - began) / 60, 1),
        gpu_minutes=0.0,
        steps=options.steps,
    )


if __name__ == "__main__":
    main()
