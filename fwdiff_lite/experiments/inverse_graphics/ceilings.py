"""The ceiling of a renderer: how near to true draws the images of a perfect sampler could be.

    python -m fwdiff_lite.experiments inverse_graphics evaluate ceiling --scenes 256 --supersampling 4

A perfect sampler draws the hidden content from its true distribution. A model shows its draws by its own renderer,
whose pixels differ from those of the true images. So true draws are shown in two such ways, and their energy score is
divided by that of the true draws as they are:

    rays   a pixel is the mean of the renderer's rays, 2 x 2, where a pixel of the true images may have more
    maps   the feature maps hold the colour of each pixel of the true image. The renderer interpolates a map bilinearly
           at its 2 x 2 rays, and takes their mean. Together this is a filter with the weights 1/8, 3/4, 1/8 along each
           axis. Only maps with the images' pixels have this ceiling (see SceneDenoiser, map_upsampling)
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fwdiff_lite.experiments.declaration import Evaluation, Results
from fwdiff_lite.experiments.harness import Session
from fwdiff_lite.experiments.inverse_graphics.angles import (
    ANGLES,
    LEAST_OPTIONS,
    energies_over,
    energy_scores,
    session_test_set,
    view_names,
)
from fwdiff_lite.experiments.inverse_graphics.held_out import TestSet, render_draws
from fwdiff_lite.experiments.split import PerContext

RENDERER_RAYS = 2  # a pixel of a model's render is the mean of 2 x 2 rays
MAP_FILTER = (1 / 8, 3 / 4, 1 / 8)  # see the module's docstring


def filter_as_maps(images: Float[Tensor, "*b h w"]) -> Float[Tensor, "*b h w"]:
    """Images whose pixels are read from feature maps at 2 x 2 rays; beyond the border, the nearest pixel."""
    kernel = images.new_tensor(MAP_FILTER)
    h, w = images.shape[-2:]
    padded = torch.nn.functional.pad(images.reshape(-1, 1, h, w), (1, 1, 1, 1), mode="replicate")
    return torch.nn.functional.conv2d(padded, (kernel[:, None] * kernel)[None, None]).view_as(images)


def measure_ceilings(test_set: TestSet) -> dict[str, Float[Tensor, "c d v"]]:
    """The energy scores of true draws, as they are and as a renderer shows them, for each scene and view."""
    draws, side = test_set.posterior_draws, test_set.truth.shape[-1]
    shown = {
        "energy_true": draws,
        "energy_rays": render_draws(test_set.drawn_scenes, test_set.cameras, side, RENDERER_RAYS),
        "energy_maps": filter_as_maps(draws),
    }
    return {name: energy_scores(views, test_set.truth) for name, views in shown.items()}


def measure_each_scene(session: Session) -> dict[str, np.ndarray]:
    """The measures of the scenes of the session's part, one scene after another."""
    test_set = session_test_set(session)
    rows = [measure_ceilings(test_set[i : i + 1]) for i in range(len(test_set.scenes))]
    return {key: torch.cat([row[key] for row in rows]).cpu().numpy() for key in rows[0]}


def summarise(session: Session, arrays: dict[str, np.ndarray], seed: int = 0) -> Results:
    """ceiling_rays_ANGLE, ceiling_maps_ANGLE and the same of novel views, with intervals over scenes."""
    generator, numbers = torch.Generator().manual_seed(seed), {}
    scores = {name: torch.from_numpy(array).double() for name, array in arrays.items()}
    for ceiling in ("rays", "maps"):
        names = view_names(f"ceiling_{ceiling}", ANGLES)
        numbers |= energies_over(scores[f"energy_{ceiling}"], scores["energy_true"], names, generator)
    return Results(numbers, {f"ceiling_{name}": array for name, array in arrays.items()})


EVALUATIONS = {"ceiling": Evaluation(PerContext(measure_each_scene, summarise), least_options=LEAST_OPTIONS)}
