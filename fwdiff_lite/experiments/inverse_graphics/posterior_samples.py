"""Samples of scenes for the contexts of a test set, rendered at its cameras."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fwdiff_lite.devices import autocast_bf16
from fwdiff_lite.diffusion import ForwardDiffusion, ForwardRegression
from fwdiff_lite.experiments.harness import Session, load_model
from fwdiff_lite.experiments.inverse_graphics.held_out import TARGET_ANGLES, K, TestSet
from fwdiff_lite.experiments.inverse_graphics.variants import compile_networks
from fwdiff_lite.observations import Observations

STEPS = 32  # of sampling


def autocast(device: torch.device) -> AbstractContextManager:
    """The context for sampling: bfloat16 autocast on a GPU, nothing on a CPU."""
    return autocast_bf16(device, device.type == "cuda")


def load_compiled_model(session: Session, name: str) -> ForwardDiffusion:
    """The trained model of a variant; on a GPU its networks are compiled, which pays off for many samples."""

    def load() -> ForwardDiffusion:
        model = load_model(session.experiment, name, session.folder, session.device)
        if session.device.type == "cuda":
            compile_networks(model)
        return model

    return session.cached(("compiled model", name), load)


@dataclass(frozen=True)
class Sampling:
    """How scenes are sampled.

    k: the number of samples of each context
    steps, eta: of `model.sample`
    chunk_size: how many scenes are sampled at once
    seed: of the noise
    """

    k: int = K
    steps: int = STEPS
    eta: float = 0.0
    chunk_size: int = 64
    seed: int = 0

    def generator(self) -> torch.Generator:
        """A new generator of noise."""
        return torch.Generator().manual_seed(self.seed)


def sample_posterior(
    model: ForwardDiffusion,
    test_set: TestSet,
    sampling: Sampling = Sampling(),
    target_angles: tuple[int, ...] = TARGET_ANGLES,
    **options,
) -> Float[Tensor, "c k d v 3 h w"]:
    """Samples k scenes for each context and each target, and renders them at the target and at the novel camera.

    A ForwardRegression predicts every view separately; then k is 1. options: of `model.sample`
    """
    if isinstance(model, ForwardRegression):
        views = predict_deterministic(model, test_set.context, test_set.cameras.flatten(1, 2), sampling.chunk_size)
        return views.unflatten(2, test_set.cameras.shape[1:3])
    generator, cameras = sampling.generator(), test_set.cameras
    views = [
        sample_and_render(model, test_set.context, cameras[:, d], sampling, generator, **options)
        for d in map(test_set.angles.index, target_angles)
    ]
    return torch.stack(views, 2)


def sample_and_render(
    model: ForwardDiffusion,
    context: Observations,
    cameras: Float[Tensor, "c v 4 4"],
    sampling: Sampling,
    generator: torch.Generator,
    **options,
) -> Float[Tensor, "c k v 3 h w"]:
    """Samples k scenes for each context, with the first camera as the target, and renders them at all V cameras.

    options: of `model.sample`
    """
    options |= {"steps": sampling.steps, "eta": sampling.eta, "generator": generator}

    def draw_views(contexts: Observations, cameras: Tensor) -> Tensor:
        return render_views(model.sample(contexts, cameras[:, :1], **options).signal, cameras)

    return repeat_and_map(draw_views, context, cameras, sampling)


def repeat_and_map(
    draw_views: Callable[[Observations, Tensor], Tensor],
    context: Observations,
    cameras: Float[Tensor, "c v 4 4"],
    sampling: Sampling,
) -> Float[Tensor, "c k n 3 h w"]:
    """The N views that `draw_views(contexts, cameras)` returns, for each of k copies of each context.

    draw_views: is called with one chunk of contexts and their cameras after another
    """
    contexts, cameras = context.repeat(sampling.k), cameras.repeat_interleave(sampling.k, 0)
    chunks = torch.arange(len(cameras), device=cameras.device).split(sampling.chunk_size)
    return torch.cat([draw_views(contexts[rows], cameras[rows]) for rows in chunks]).unflatten(0, (-1, sampling.k))


def render_views(scenes: Any, cameras: Float[Tensor, "b m 4 4"]) -> Float[Tensor, "b m 3 h w"]:
    """The images of scenes (objects with a method `render`) at M cameras, one camera after another to save memory."""
    return torch.cat([scenes.render(camera).rgb for camera in cameras.split(1, 1)], 1)


def predict_deterministic(
    model: ForwardRegression, context: Observations, cameras: Float[Tensor, "c v 4 4"], chunk_size: int = 64
) -> Float[Tensor, "c 1 v 3 h w"]:
    """The predictions of the deterministic model. Each view is the target of its own prediction, as in training."""

    def predict_views(contexts: Observations, cameras: Tensor) -> Tensor:
        return torch.cat([render_views(model.sample(contexts, c).signal, c) for c in cameras.split(1, 1)], 1)

    return repeat_and_map(predict_views, context, cameras, Sampling(k=1, chunk_size=chunk_size))
