"""A model of 3-D scenes of the size of the paper's released code: it is timed, and its weights are not shipped.

Like the released code, it has images of 64x64 pixels, a DiT of 28 blocks of width 1152 over 256 patches, feature maps
and a field of 512 channels, 64 rendered features, a deterministic render of all pixels with 32 samples a ray, and a
loss on 576 rays of the target and 576 of the novel view, with 128 samples each.

It differs from the released code where this library does. The DiT takes patches of 4x4 pixels of the image; there, a
convolution halves the image, and patches have 2x2 pixels. The field has three residual blocks and not five. The time is
no input of the field, because the feature maps depend on it. The 128 samples of a ray are stratified; there, 64 of them
follow a coarse network. The rays of the loss are random pixels and no crop of 24x24 pixels. There is no loss on LPIPS,
depth or distortion.

Activation checkpointing and rays in chunks are for a GPU of 80 GB. `torchrun` and `accelerate launch` use several GPUs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from fwdiff_lite.diffusion import ForwardDiffusion
from fwdiff_lite.experiments.declaration import Experiment, Training, Variant
from fwdiff_lite.experiments.inverse_graphics.variants import NUM_FREQS, SIDE, Settings, tabletop_batches
from fwdiff_lite.problems.inverse_graphics import tabletop
from fwdiff_lite.problems.inverse_graphics.pixelnerf import SceneDenoiser
from fwdiff_lite.problems.inverse_graphics.volume import VolumeRenderer
from fwdiff_lite.schedule import ShiftedCosineSchedule
from fwdiff_lite.training import TrainingLog

SETTINGS = Settings(encoder="dit", pixels=24**2)
ENCODER_OPTIONS = {"width": 1152, "depth": 28, "heads": 16, "patch": 4, "activation_checkpointing": True}
DENOISER_OPTIONS = {"width": 512, "num_features": 64, "render_downsample": 1, "render_samples": 32}
RENDERER_OPTIONS = {"height": SIDE, "width": SIDE, "samples_per_ray": 128, "points_per_chunk": 2**14}
BATCH_SIZE = 8  # scenes a step on each GPU
FIT_OPTIONS = {"learning_rate": 1e-4, "checkpoint_every": 10**6, "checkpoint_minutes": 30}  # a file has 11 GB


def build_model(
    seed: int = 0,
    encoder_options: Mapping[str, Any] = ENCODER_OPTIONS,
    denoiser_options: Mapping[str, Any] = DENOISER_OPTIONS,
    renderer_options: Mapping[str, Any] = RENDERER_OPTIONS,
) -> ForwardDiffusion:
    """The model with initial weights."""
    torch.manual_seed(seed)
    renderer = VolumeRenderer(tabletop.LOW, tabletop.HIGH, supersampling=2, **renderer_options)
    options = {"num_freqs": NUM_FREQS, "encoder_options": dict(encoder_options)} | dict(denoiser_options)
    return ForwardDiffusion(SceneDenoiser(renderer, "dit", **options), renderer, ShiftedCosineSchedule(0.5))


def compile_blocks(model: nn.Module) -> None:
    """Compiles each block of the encoder and the field's network, the parts that the backward pass computes again.

    All blocks share one compiled program, so this takes much less time than to compile the loss as `fit` does.
    """
    for block in model.denoiser.encoder.blocks:
        block.compile(dynamic=False)
    model.denoiser.field.compile(dynamic=False)


@dataclass(frozen=True)
class BlockwiseVariant(Variant):
    """A variant that is compiled block by block."""

    def train(self, model: nn.Module, training: Training) -> TrainingLog:
        """Trains the model in place."""
        options = dict(self.fit_options)
        if options.pop("compile", training.device.type == "cuda"):
            compile_blocks(model)
        return Variant.train(replace(self, fit_options=options | {"compile": False}), model, training)


EXPERIMENT = Experiment(
    name="paper_size",
    results_name="paper_size",
    variants={
        "dit": BlockwiseVariant(
            build=build_model,
            batches=partial(tabletop_batches, SETTINGS),
            batch_size=BATCH_SIZE,
            fit_options=FIT_OPTIONS,
            options=SETTINGS.as_json()
            | {"encoder_options": ENCODER_OPTIONS, "denoiser": DENOISER_OPTIONS, "renderer": RENDERER_OPTIONS},
        )
    },
    evaluations={},
)
