"""The measures of the hidden factors, which the views from behind show."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fwdiff_lite import metrics
from fwdiff_lite.experiments.inverse_graphics.held_out import TestSet
from fwdiff_lite.problems.inverse_graphics import disocclusion, tabletop


def classify_factors(views: Float[Tensor, "c k 3 h w"], test_set: TestSet) -> Int[Tensor, "c f k"]:
    """The category of each hidden factor that the views from behind (180 degrees) show."""
    templates = (test_set.factor_templates[name] for name in tabletop.FACTORS)
    return torch.stack([disocclusion.classify_nearest_template(views, *pair) for pair in templates], 1)


def summarise_factors(
    labels: Int[Tensor, "c f k"], probabilities: Float[Tensor, "c f a"], generator: torch.Generator
) -> dict[str, float | Tensor]:
    """How far the frequencies of the samples' categories are from the true probabilities, with intervals."""
    numbers = {}
    for i, name in enumerate(tabletop.FACTORS):
        numbers |= metrics.factor_tv(labels[:, i], probabilities[:, i], generator).as_metrics(f"{name}_factor_tv")
        numbers |= metrics.per_context_calibration_rms(labels[:, i], probabilities[:, i], generator).as_metrics(
            f"{name}_factor_scene_rms"
        )
    # not pooled over factors: their categories have nothing in common but an index, so opposite errors would cancel
    worst = max(tabletop.FACTORS, key=lambda name: numbers[f"{name}_factor_tv"])
    numbers |= {f"factor_tv{end}": numbers[f"{worst}_factor_tv{end}"] for end in ("", "_low", "_high")}
    pooled_rms = metrics.per_context_calibration_rms(labels.flatten(0, 1), probabilities.flatten(0, 1), generator)
    return numbers | pooled_rms.as_metrics("factor_scene_rms")
