"""What every denoiser of this repository must do with masks, NaN under a mask, and the model's schedule."""

from functools import cache
from typing import NamedTuple

import pytest
import torch

from fwdiff_lite.diffusion import ForwardDiffusion
from fwdiff_lite.observations import Observations
from fwdiff_lite.problems import digits
from fwdiff_lite.problems.gan_inversion import patches
from fwdiff_lite.problems.gan_inversion.stylegan2 import Generator
from fwdiff_lite.problems.inverse_graphics.cameras import orbit
from fwdiff_lite.problems.inverse_graphics.pixelnerf import SceneDenoiser
from fwdiff_lite.problems.inverse_graphics.viewspace import ViewDenoiser, identity_forward
from fwdiff_lite.problems.inverse_graphics.volume import VolumeRenderer
from fwdiff_lite.problems.motion import warping
from fwdiff_lite.problems.toy import baselines, projections, unreachable_mean
from fwdiff_lite.schedule import ShiftedCosineSchedule

B, SIDE = 3, 8  # signals of a batch; pixels along a side


class Case(NamedTuple):
    """A model, with two contexts (or one) and three targets (or one) of each of B signals."""

    model: ForwardDiffusion
    context: Observations
    target: Observations


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def split(views: Observations, num_contexts: int, num_targets: int) -> tuple[Observations, Observations]:
    return views.select(slice(num_contexts)), views.select(slice(num_contexts, num_contexts + num_targets))


@cache
def digit_images():
    return digits.load_digit_splits().train[:64]


def digit_case():
    images = digit_images()
    model = digits.build_model(images, width=16, depth=1, dropout=0.0)
    return Case(model, *split(digits.observe(images[:B], digits.sample_windows(B, 5, seeded())), 2, 3))


@cache
def cropped_generator():
    torch.manual_seed(0)
    G = Generator(16, z_dim=8, w_dim=8, mapping_layers=2, channel_base=128, channel_max=8)
    return patches.CroppedGenerator(G)


def patch_views():
    images = torch.rand(B, 3, 16, 16, generator=seeded()) * 2 - 1
    return patches.observe(images, patches.sample_crops(B, 5, seeded(1), (4, 8), 16))


def patch_case():
    forward_model = cropped_generator()
    denoiser = patches.PatchDenoiser(forward_model, torch.ones(8), "w", widths=(8, 8), hidden=16)
    torch.nn.init.normal_(denoiser.encoder.head[-1].weight)
    return Case(ForwardDiffusion(denoiser, forward_model), *split(patch_views(), 2, 3))


def reference_set_case():
    images = torch.rand(6, 3, 16, 16, generator=seeded(2)) * 2 - 1
    denoiser = patches.ReferenceSetDenoiser(images, ShiftedCosineSchedule(0.5), context_std=5.0)
    return Case(ForwardDiffusion(denoiser, patches.ReferenceSet(images)), *split(patch_views(), 2, 3))


def image_case(denoiser_class, **options):
    torch.manual_seed(0)
    renderer = VolumeRenderer((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0), SIDE, SIDE, 4)
    encoder_options = {"widths": (8, 8), "num_blocks": 1, "num_attention_levels": 1}
    denoiser = denoiser_class(renderer, "unet", 8, num_features=2, encoder_options=encoder_options, **options)
    for w in denoiser.parameters():
        w.data += 0.2 * torch.randn(w.shape, generator=seeded(w.numel()))
    azimuth = 6 * torch.rand(B, 5, generator=seeded(1))
    views = Observations(torch.rand(B, 5, 3, SIDE, SIDE, generator=seeded()), orbit(azimuth, 0 * azimuth, 3.0, 0.9))
    return Case(
        ForwardDiffusion(denoiser, identity_forward if denoiser_class is ViewDenoiser else renderer),
        *split(views, 2, 3),
    )


def motion_case():
    frames = torch.rand(B, 2, 3, 8, 8, generator=seeded()) * 2 - 1
    views = Observations(frames, torch.tensor([[[0.0], [1.0]]]).expand(B, 2, 1))
    return Case(warping.build_model(widths=(8, 8, 8, 8)), *split(views, 1, 1))


def projection_case(build):
    signal = projections.make_prior(2).sample(B, seeded())
    return Case(build(), *split(projections.sample_observations(signal, 3, seeded(1)), 2, 1))


def oracle_case():
    context = projection_case(baselines.build_oracle).context.select([0])
    target = Observations(torch.randn(B, 1, 2, generator=seeded(), dtype=torch.float64), context.params)
    return Case(baselines.build_oracle().double(), context, target)


def unreachable_case(denoiser, forward_model, *shape):
    context = unreachable_mean.empty_context(B, *shape)
    return Case(ForwardDiffusion(denoiser, forward_model), context, Observations(context.value, context.params))


SEVERAL_TARGETS = {
    "digits": digit_case,
    "patches": patch_case,
    "reference set": reference_set_case,
    "scene": lambda: image_case(SceneDenoiser),
    "scene without render": lambda: image_case(SceneDenoiser, conditioning=()),
    "views": lambda: image_case(ViewDenoiser),
}
ONE_TARGET = {
    "motion": motion_case,
    "projections": lambda: projection_case(lambda: projections.build_diffusion(2, 2).double()),
    "ideal": lambda: projection_case(
        lambda: ForwardDiffusion(projections.IdealDenoiser(projections.make_prior(2)), projections.project)
    ),
    "oracle": oracle_case,
    "binary": lambda: unreachable_case(unreachable_mean.IdealBinaryDenoiser(0.6, 1.0), unreachable_mean.power_forward),
    "bump": lambda: unreachable_case(unreachable_mean.IdealBumpDenoiser(0.6), projections.identity_forward, 16),
}
ALL = SEVERAL_TARGETS | ONE_TARGET


def parts(signal) -> list[torch.Tensor]:
    """The tensors of a signal that depend on the targets."""
    if isinstance(signal, torch.Tensor):
        return [signal]
    return list(signal) if isinstance(signal, tuple) else [signal(torch.rand(B, 4, 3, generator=seeded()) - 0.5)[0]]


@pytest.mark.parametrize("name", ALL)
def test_nan_under_a_contexts_mask_reaches_nothing(name):
    model, context, target = ALL[name]()
    mask = context.mask.clone()
    mask[0, -1] = False
    empty = not mask.any(1).all()
    losses, gradients, samples = [], [], []
    for filler in (torch.nan, 0.0):
        keep = mask.reshape(*mask.shape, *[1] * (context.value.ndim - 2))
        spoilt = Observations(torch.where(keep, context.value, filler), context.params, mask)
        model.zero_grad()
        loss = model.loss(spoilt, target, *model.sample_time_and_noise(target, seeded()))["loss"]
        if loss.requires_grad:
            loss.backward()
        gradients.append([w.grad.clone() for w in model.denoiser.parameters() if w.grad is not None])
        losses.append(loss.detach())
        step = model.sample(spoilt, target.params, steps=2, guidance=1.5, generator=seeded(), allow_empty=empty)
        samples.append(step.observation)
    assert losses[0].isfinite() and losses[0] == losses[1]
    assert all(torch.equal(x, y) and x.isfinite().all() for x, y in zip(*gradients, strict=True))
    assert torch.equal(*samples) and samples[0].isfinite().all()


@pytest.mark.parametrize("name", SEVERAL_TARGETS)
def test_a_masked_target_has_no_influence(name):
    """The signal is that of the remaining targets alone, whatever lies under the mask."""
    model, context, target = SEVERAL_TARGETS[name]()
    model.eval()
    mask = torch.tensor([[True, True, False]]).expand(B, 3)
    t = torch.full((B,), 0.4)
    keep = mask.reshape(B, 3, *[1] * (target.value.ndim - 2))
    noisy = torch.where(keep, target.value, 0)
    denoiser, remaining = model.denoiser, target.params[:, :2]
    with torch.no_grad():
        masked = denoiser(denoiser.condition(context, target.params, mask), noisy, t)
        alone = denoiser(denoiser.condition(context, remaining), noisy[:, :2], t)
        all_three = denoiser(denoiser.condition(context, target.params), target.value, t)
        if name == "views":  # its signal is the images
            masked, all_three = masked[:, :2], all_three[:, :2]
    for x, y, z in zip(parts(masked), parts(alone), parts(all_three), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)
        assert name == "views" or (x - z).abs().max() > 1e-3, "the control: without the mask"
    losses = [
        model.loss(context, Observations(value, target.params, mask), *model.sample_time_and_noise(target, seeded()))
        for value in (torch.where(keep, target.value, torch.nan), noisy)
    ]
    assert all(losses[0][key].isfinite() and losses[0][key] == losses[1][key] for key in losses[0])


@pytest.mark.parametrize("name", ONE_TARGET)
def test_denoisers_of_one_target_refuse_others(name):
    model, context, target = ONE_TARGET[name]()
    options = {"steps": 1, "allow_empty": True}
    with pytest.raises(ValueError, match="takes one target for each signal, got 2$"):
        model.sample(context, target.params.repeat_interleave(2, 1), **options)
    with pytest.raises(ValueError, match="takes no masked target, got 3: leave them out$"):
        model.sample(context, target.params, torch.zeros(B, 1, dtype=torch.bool), **options)


@pytest.mark.parametrize("name", ALL)
def test_the_model_holds_the_one_schedule(name):
    model, _, _ = ALL[name]()
    schedule = ShiftedCosineSchedule(0.37)
    model = ForwardDiffusion(model.denoiser, model.forward_model, schedule)
    held = {key: x for key, x in vars(model.denoiser).items() if hasattr(x, "alpha") and hasattr(x, "sigma")}
    assert set(held) <= {"schedule"} and all(x is schedule for x in held.values())


def test_the_motion_denoiser_weighs_by_the_models_schedule():
    model, context, target = motion_case()
    t, condition = torch.full((B,), 0.5), model.denoiser.condition(context, target.params)
    before = model.denoiser.loss_weight(condition, t)
    ForwardDiffusion(model.denoiser, model.forward_model, ShiftedCosineSchedule(2.0))
    assert (model.denoiser.loss_weight(condition, t) > 1.1 * before).all(), "less noise, a smaller expected error"
