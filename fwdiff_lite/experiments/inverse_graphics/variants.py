"""The models of 3-D scenes: the full model, baselines and ablations, with the training of each.

Tabletop scenes are rendered on the device during training, so there is no data set, and no scene appears twice. A
variant can also be trained on clips, frames with known cameras. A clip shows an unbounded scene: rays begin at the near
plane, and coordinates are contracted.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from fwdiff_lite.datasets import view_sampler
from fwdiff_lite.datasets.posed_clips import Clip
from fwdiff_lite.diffusion import ForwardDiffusion, ForwardRegression
from fwdiff_lite.experiments.declaration import Variant
from fwdiff_lite.problems.inverse_graphics import tabletop
from fwdiff_lite.problems.inverse_graphics.pixelnerf import COND_CHANNELS, SceneDenoiser
from fwdiff_lite.problems.inverse_graphics.viewspace import ViewDenoiser, identity_forward
from fwdiff_lite.problems.inverse_graphics.volume import VolumeRenderer
from fwdiff_lite.protocols import BatchFunction
from fwdiff_lite.schedule import ShiftedCosineSchedule

SIDE, LARGE_SIDE = 64, 128  # pixels along each side of an image
SAMPLES_PER_RAY, NUM_FREQS = 32, 6  # of the volume renderer; of the positional encoding of coordinates
PIXELS = 320  # rays of each target and novel image in the loss
BATCH_SIZE = 128  # scenes a step: with 64, an H100 waits for Python a quarter of the time
LEARNING_RATE = 5e-4
CHECKPOINTS = {"checkpoint_every": 1000, "checkpoint_minutes": 5}  # the GPUs wait for a second each time
FULL_MODEL, BASELINE = "unet", "deterministic"  # the variants that ablations are compared with
MAIN_MODEL, MAIN_BASELINE = "supersampled_maps", "supersampled_deterministic"  # of 06
PRETRAINED = f"06_inverse_graphics_{MAIN_MODEL}"  # the checkpoint of the main model
ENCODER_OPTIONS = {
    "unet": {"widths": (64, 128, 192, 256), "num_blocks": 1, "num_attention_levels": 2},
    "dit": {"width": 256, "depth": 5, "heads": 4, "patch": 4},
}


@dataclass(frozen=True)
class Settings:
    """The settings of a model and its training that differ between variants. The defaults are those of the full model.

    model_class: ForwardDiffusion, or ForwardRegression for the deterministic baseline
    denoiser_class, encoder: the denoiser and the backbone of its encoder
    conditioning: the channels of the deterministic render that condition the target's encoder (from
        pixelnerf.COND_CHANNELS)
    novel_weight: the weight of the novel loss
    pixels: rays of each target and novel image in the loss; None: all pixels
    contexts: context images, at most
    context_dropout: the share of examples whose context is masked out
    side: pixels along each side of an image
    """

    model_class: type[ForwardDiffusion] = ForwardDiffusion
    denoiser_class: type[SceneDenoiser] = SceneDenoiser
    encoder: str = "unet"
    conditioning: tuple[str, ...] = COND_CHANNELS
    novel_weight: float = 1.0
    pixels: int | None = PIXELS
    contexts: int = 1
    context_dropout: float = 0.0
    side: int = SIDE

    @property
    def fits_clips(self) -> bool:
        """Whether a model can be trained on clips: with a scene, one context image and no context dropout."""
        return self.denoiser_class is SceneDenoiser and self.contexts == 1 and not self.context_dropout

    def as_json(self) -> dict[str, Any]:
        """The settings as JSON values; a class is its name."""
        return {key: getattr(value, "__name__", value) for key, value in vars(self).items()}


def build_model(
    settings: Settings,
    seed: int = 0,
    samples_per_ray: int = SAMPLES_PER_RAY,
    width: int = 64,
    near_far: Sequence[float] | None = None,
    supersample_observations: bool = False,
    denoiser_options: Mapping[str, Any] | None = None,
    **options,
) -> ForwardDiffusion:
    """The model with these settings and initial weights.

    width: of the field's network and of the encoder's output
    near_far: None for tabletop scenes. For unbounded scenes: the near and far plane; the first context camera is the
        origin of the world.
    supersample_observations: whether a pixel is the mean of its rays in training and sampling, too (VolumeRenderer)
    denoiser_options: further arguments of the denoiser, such as map_upsampling
    options: arguments of the encoder, which replace those of ENCODER_OPTIONS
    ValueError unless 0 < near < far.
    """
    side = settings.side
    low, high, near = tabletop.LOW, tabletop.HIGH, 0.0
    if near_far is not None:
        near, far = near_far
        low, high = (-far,) * 3, (far,) * 3
        if not 0 < near < far:
            raise ValueError(f"near and far are {near:g} and {far:g}: wanted 0 < near < far")
    torch.manual_seed(seed)
    renderer = VolumeRenderer(
        low,
        high,
        height=side,
        width=side,
        samples_per_ray=samples_per_ray,
        supersampling=2,
        near=near,
        supersample_observations=supersample_observations,
    )
    options = ENCODER_OPTIONS[settings.encoder] | options
    denoiser = settings.denoiser_class(
        renderer,
        settings.encoder,
        width,
        num_freqs=NUM_FREQS,
        encoder_options=options,
        conditioning=settings.conditioning,
        **(denoiser_options or {}),
    )
    forward_model = identity_forward if settings.denoiser_class is ViewDenoiser else renderer
    # shifted with the resolution: after downsampling to SIDE pixels, the signal-to-noise ratio is always the same
    schedule = ShiftedCosineSchedule(0.5 * SIDE / side)
    return settings.model_class(denoiser, forward_model, schedule, settings.novel_weight)


def compile_networks(model: ForwardDiffusion) -> None:
    """Compiles the encoder and the field's network, for sampling on a GPU. They take most of the time."""
    model.denoiser.encoder.compile(dynamic=False)
    field = model.denoiser.field
    field.embed = torch.compile(field.embed, dynamic=False)  # also called by itself, see SceneDenoiser.prepare_sampling
    field.compile(dynamic=False)


def make_variant(
    settings: Settings,
    seed: int = 0,
    parent: str | None = None,
    fit_options: Mapping[str, Any] | None = None,
    batch_options: Mapping[str, Any] | None = None,
    **model_options,
) -> Variant:
    """The variant with these settings, trained on tabletop scenes.

    fit_options: arguments of `fit` that differ from those of the full model
    batch_options: arguments of `tabletop.batches` that differ from those of the full model
    model_options: of `build_model`
    All three are recorded.
    """
    fit_options, batch_options = dict(fit_options or {}), dict(batch_options or {})
    return Variant(
        build=partial(build_model, settings, **model_options),
        batches=partial(tabletop_batches, settings, **batch_options),
        batch_size=BATCH_SIZE,
        fit_options={"learning_rate": LEARNING_RATE} | CHECKPOINTS | fit_options,
        options=settings.as_json() | model_options | batch_options | fit_options,
        seed=seed,
        parent=parent,
    )


def tabletop_batches(settings: Settings, device: torch.device, batch_size: int, **options) -> BatchFunction:
    """Batches of new tabletop scenes, rendered on the device. options: of `tabletop.batches`"""
    return tabletop.batches(
        batch_size,
        settings.contexts,
        settings.pixels,
        side=settings.side,
        context_dropout=settings.context_dropout,
        device=device,
        compile=device.type == "cuda",
        **options,
    )


SETTINGS = {
    "unet": Settings(),  # the full model
    "reseeded": Settings(),  # the full model with another seed: the variation from training to training
    "dit": Settings(encoder="dit"),
    "no_novel": Settings(novel_weight=0.0),
    "no_render": Settings(conditioning=()),
    "no_features": Settings(conditioning=("colour", "depth")),
    "no_depth": Settings(conditioning=("colour", "features")),
    "around": Settings(contexts=2),  # the full model with up to two context images
    "guided": Settings(context_dropout=0.15),
    "deterministic": Settings(model_class=ForwardRegression),
    # view-space diffusion has no scene, so it cannot render a novel view
    "view_space": Settings(denoiser_class=ViewDenoiser, novel_weight=0.0, pixels=None),
    "unconditional": Settings(conditioning=(), context_dropout=1.0),
}
VARIANTS = {name: make_variant(settings, seed=int(name == "reseeded")) for name, settings in SETTINGS.items()}
# A pixel is the mean of 2 x 2 rays of the field everywhere, so a quarter of the pixels has as many rays. A pixel of the
# true images is the mean of 4 x 4 rays: with 2 x 2, no model can know where these rays pass an edge inside of a pixel.
SUPERSAMPLED_SETTINGS = Settings(pixels=PIXELS // 4)
SUPERSAMPLED_OPTIONS = {
    "supersample_observations": True,
    "batch_options": {"supersampling": 4},
    "fit_options": {"learning_rate": 8e-4, "muon_learning_rate": 2e-3, "warmup": 300},
}
MAPS_OPTIONS = SUPERSAMPLED_OPTIONS | {"denoiser_options": {"map_upsampling": 2}}
SUPERSAMPLED_VARIANTS = {
    "supersampled": make_variant(SUPERSAMPLED_SETTINGS, **SUPERSAMPLED_OPTIONS),
    "supersampled_maps": make_variant(SUPERSAMPLED_SETTINGS, **MAPS_OPTIONS),
    # --init-from takes the weights of supersampled_maps, which fit images of any side
    f"supersampled_maps_{LARGE_SIDE}": replace(
        make_variant(replace(SUPERSAMPLED_SETTINGS, side=LARGE_SIDE), **MAPS_OPTIONS), batch_size=BATCH_SIZE // 2
    ),
    "supersampled_deterministic": make_variant(
        replace(SUPERSAMPLED_SETTINGS, model_class=ForwardRegression), **MAPS_OPTIONS
    ),
    "supersampled_view_space": make_variant(SETTINGS["view_space"], **SUPERSAMPLED_OPTIONS),
}


def make_clip_variant(
    name: str,
    clips: list[Clip],
    frame_gap: tuple[int, int],
    near_far: tuple[float, float],
    folder: str = "",
    side: int = SIDE,
    max_contexts: int = 1,
) -> Variant:
    """The variant of that name, trained on clips.

    frame_gap: the least and the largest number of frames from context to target
    near_far: the near and far plane of a clip's scenes, in the clip's own unit
    folder: where the clips come from, for the record
    max_contexts: each example has 1 to so many contexts
    """
    settings = replace(SETTINGS[name], side=side)

    def batches(device: torch.device, batch_size: int) -> BatchFunction:
        threads = os.cpu_count() or 1
        return view_sampler.batches(
            clips, batch_size, frame_gap, settings.pixels, settings.side, threads, max_contexts=max_contexts
        )

    variant = make_variant(settings, VARIANTS[name].seed, near_far=near_far)
    data = {"near_far": list(near_far), "frame_gap": list(frame_gap), "data": folder}
    data |= {"contexts": max_contexts} if max_contexts > 1 else {}
    return replace(variant, batches=batches, options=variant.options | data)
