"""StyleGAN2's training: losses, augmentation, and the steps of the trainer."""

import math
from collections import Counter

import pytest
import torch
from stylegan2_reference import make_generator, normal, small_generator
from torch import nn
from torch.autograd import gradcheck

from fwdiff_lite.problems.gan_inversion import portraits, stylegan2_training
from fwdiff_lite.problems.gan_inversion.portraits import AttributeMomentLoss
from fwdiff_lite.problems.gan_inversion.stylegan2 import Discriminator, EqualLinear, Generator
from fwdiff_lite.problems.gan_inversion.stylegan2_training import (
    ADA_P_MAX,
    StyleGAN2Trainer,
    TrainerOptions,
    ada_update,
    augment,
    discriminator_loss,
    generator_loss,
    lazy_adam,
    path_lengths,
    r1_penalty,
    train_generator,
    train_mapping,
    update_ema,
)

# --- losses ---------------------------------------------------------------------------------------------------


def test_losses_are_logistic():
    zero = torch.zeros(4, dtype=torch.float64)
    assert generator_loss(zero) == pytest.approx(math.log(2))
    assert discriminator_loss(zero, zero) == pytest.approx(2 * math.log(2))
    real, fake = normal(5), normal(5, seed=1)
    expected = -(real.sigmoid().log().mean() + (1 - fake.sigmoid()).log().mean())
    torch.testing.assert_close(discriminator_loss(real, fake), expected)
    torch.testing.assert_close(generator_loss(fake), -fake.sigmoid().log().mean())
    confident_fake = torch.full((1,), -20.0, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(generator_loss(confident_fake), confident_fake)
    assert gradient == pytest.approx(-1), "does not saturate where the discriminator is certain"
    (gradient,) = torch.autograd.grad(-discriminator_loss(torch.zeros(1).double(), confident_fake), confident_fake)
    assert abs(gradient) < 1e-6, "control: the saturating loss does"


def test_r1_of_discriminators_whose_gradient_is_known():
    images, a = normal(4, 3, 2, 2), normal(3, 2, 2, seed=1).requires_grad_()
    linear = r1_penalty(lambda x: (x * a).flatten(1).sum(1), images)
    torch.testing.assert_close(linear, a.square().sum())
    (gradient,) = torch.autograd.grad(linear, a)
    torch.testing.assert_close(gradient, 2 * a), "differentiable, so it can be minimised"
    square = r1_penalty(lambda x: 1.5 * x.square().flatten(1).sum(1), images)
    torch.testing.assert_close(square, 9 * images.square().flatten(1).sum(1).mean())
    assert r1_penalty(lambda x: 0 * x.flatten(1).sum(1), images) == 0


def test_path_lengths_of_a_linear_generator():
    """image = sum_l A_l w_l has J^T y = (A_l^T y)_l."""
    matrix = normal(2, 5, 3 * 4 * 4).requires_grad_()  # (L, D, C H W)
    ws = normal(6, 2, 5, seed=1).requires_grad_()
    images = torch.einsum("bld,ldp->bp", ws, matrix).unflatten(1, (3, 4, 4))
    noise = normal(6, 3, 4, 4, seed=2)
    lengths = path_lengths(images, ws, noise)
    pulled = torch.einsum("ldp,bp->bld", matrix, noise.flatten(1)) / 4  # sqrt(4 x 4)
    torch.testing.assert_close(lengths, pulled.square().sum((1, 2)).div(2).sqrt())
    (gradient,) = torch.autograd.grad(lengths.sum(), matrix)
    assert gradient.abs().min() > 0, "differentiable, so it can be minimised"


# --- augmentation -----------------------------------------------------------------------------------------------


def test_augmentation_with_probability_zero_is_the_identity():
    images = normal(6, 3, 16, 16).requires_grad_()
    augmented = augment(images, 0.0, make_generator())
    torch.testing.assert_close(augmented, images, rtol=1e-5, atol=1e-5)
    (gradient,) = torch.autograd.grad(augmented.sum(), images)
    torch.testing.assert_close(gradient, torch.ones_like(images), rtol=1e-4, atol=1e-4)
    change = (augment(images, 1.0, make_generator()) - images).abs().flatten(1).amax(1)
    assert change.min() > 0.1, "control: with probability 1, all images change"
    images = images.repeat(50, 1, 1, 1)
    change = (augment(images, 0.05, make_generator()) - images).flatten(1).abs().amax(1)
    # 0.95^6 = 0.74 are not augmented; some augmentations are the identity
    assert 0.6 < (change < 1e-4).double().mean() < 0.85


def test_augmentation_is_differentiable():
    """For one random state it is linear in the images, so the numerical gradient is exact."""
    images = normal(2, 3, 8, 8).requires_grad_()
    assert gradcheck(lambda x: augment(x, 0.9, make_generator(1)), images, fast_mode=True, atol=1e-4)


def all_poses(image):
    """All mirror images, rotations and shifts by one pixel of an image that is continued by reflection."""
    padded = torch.cat([image[:, :1], image, image[:, -1:]], 1)
    padded = torch.cat([padded[:, :, :1], padded, padded[:, :, -1:]], 2)
    h = image.shape[1]
    shifts = [padded[:, i : i + h, j : j + h] for i in range(3) for j in range(3)]
    rotated = [x.rot90(k, (1, 2)) for x in shifts for k in range(4)]
    return torch.stack([x for image in rotated for x in (image, image.flip(2))])


def count_poses(monkeypatch, p: float, n: int = 6000) -> Counter:
    """The number of images in each of the 72 poses, without changes of scale and colour."""
    monkeypatch.setattr(torch, "randn", lambda *shape, generator, device: torch.zeros(*shape))
    image = torch.rand(3, 8, 8, generator=make_generator(5), dtype=torch.float64)
    augmented = augment(image.expand(n, -1, -1, -1), p, make_generator(6))
    distance, pose = torch.cdist(augmented.flatten(1), all_poses(image).flatten(1), 1.0).min(1)
    assert distance.max() < 1e-5, "pixels are moved, not interpolated"
    return Counter(pose.tolist())


def test_augmentation_by_whole_pixels_does_not_leak(monkeypatch):
    """Below probability 1 the original pose is the most frequent one, so a generator of rotated images scores worse."""
    n, plain = 6000, torch.arange(64.0).view(1, 8, 8)
    identity = next(i for i, x in enumerate(all_poses(plain)) if torch.equal(x, plain))
    for p in (0.4, ADA_P_MAX):
        counts = count_poses(monkeypatch, p, n)
        expected = (1 - p / 2) * (1 - 3 * p / 4) * (1 - 8 * p / 9)
        assert abs(counts[identity] / n - expected) < 4 * math.sqrt(expected / n)
        mirrored = sum(count for pose, count in counts.items() if pose % 2) / n
        assert abs(mirrored - p / 2) < 4 * math.sqrt(p / 2 / n), "rotations are not mirror images"
        (best, count), (_, next_count) = counts.most_common(2)
        assert best == identity and count > next_count + 3 * math.sqrt(count)
    counts = count_poses(monkeypatch, 1.0, n)
    assert len(counts) == 72, "all poses occur"
    assert max(counts.values()) < 2 * n / 72, "control: with probability 1, all poses are equally frequent"


def test_scale_and_colour_augmentations(monkeypatch):
    """An image of two linear ramps; all normal draws are 1; no mirror image, rotation or shift."""
    monkeypatch.setattr(torch, "randn", lambda *shape, generator, device: torch.ones(*shape))
    fixed_draws = {2: 1, 4: 0}
    monkeypatch.setattr(
        torch, "randint", lambda *args, generator, device: torch.full(args[-1], fixed_draws.get(args[0], 0))
    )
    x = ((torch.arange(16) + 0.5) / 8 - 1).double()
    ramp = torch.stack([x.expand(16, -1), x.expand(16, -1).T, torch.zeros(16, 16).double()])
    augmented = augment(ramp[None], 1.0, make_generator())[0]
    brightened = (ramp / 2**0.2 + 0.2) * 2**0.5
    grey = brightened.mean(0)
    torch.testing.assert_close(augmented, grey + 2 * (brightened - grey), rtol=1e-5, atol=1e-5)


def test_the_augmentation_probability_follows_the_discriminator():
    p, certain, uncertain = torch.tensor(0.3), torch.ones(50), torch.tensor([1.0, -1.0]).repeat(25)
    assert ada_update(p, certain, span=500) == pytest.approx(0.4)
    assert ada_update(p, uncertain, span=500) == pytest.approx(0.2)
    assert ada_update(p, uncertain, target=-0.1, span=500) == pytest.approx(0.4)
    assert ada_update(torch.tensor(0.79), certain, span=500) == pytest.approx(ADA_P_MAX)
    assert ada_update(torch.tensor(0.01), uncertain, span=500) == 0


# --- training ---------------------------------------------------------------------------------------------------


def test_the_ema_moves_by_its_decay():
    ema, network = small_generator(8), small_generator(8, seed=1)
    ema_before, current = ({k: x.clone() for k, x in g.state_dict().items()} for g in (ema, network))
    update_ema(ema, network, 0.75)
    buffers = {name for name, _ in network.named_buffers()}
    for key, x in ema.state_dict().items():
        torch.testing.assert_close(x, current[key] if key in buffers else 0.75 * ema_before[key] + 0.25 * current[key])
    assert all(torch.equal(x, current[key]) for key, x in network.state_dict().items()), "the network does not change"


def test_lazy_regularisation_scales_the_parameters_of_adam():
    group = lazy_adam(EqualLinear(2, 2), 0.01, 16).param_groups[0]
    assert group["lr"] == pytest.approx(0.01 * 16 / 17)
    assert group["betas"] == (0.0, pytest.approx(0.99 ** (16 / 17)))
    assert lazy_adam(EqualLinear(2, 2), 0.01, None).param_groups[0]["lr"] == 0.01


def make_trainer(auxiliary_loss=None, resolution=8, **options) -> StyleGAN2Trainer:
    torch.manual_seed(0)
    G = Generator(resolution, z_dim=8, w_dim=8, mapping_layers=2, channel_base=128, channel_max=16)
    return StyleGAN2Trainer(G, Discriminator(resolution, 128, 16), TrainerOptions(**options), auxiliary_loss)


def test_some_images_mix_two_styles():
    for mixing_probability, low, high in ((0.0, 0.0, 0.0), (0.5, 0.35, 0.65), (1.0, 1.0, 1.0)):
        trainer = make_trainer(mixing_probability=mixing_probability)
        ws = trainer.sample_styles(200, make_generator())
        assert ws.shape == (200, 4, 8)
        mixed = (ws != ws[:, :1]).any(-1)
        assert low <= mixed.any(1).double().mean() <= high
        assert torch.equal(mixed, mixed.cummax(1).values), "there are at most two styles"
        assert trainer.G.mapping.w_avg.abs().max() > 0, "w_avg is updated"


def test_every_parameter_is_trained_and_every_loss_is_finite():
    options = {"path_length_weight": 2.0, "path_length_interval": 2, "r1_interval": 2}
    trainer, generator = make_trainer(**options, adaptive_augmentation=True), make_generator()
    trainer.augment_p += 0.3

    def named_parameters():
        return {
            name: w
            for network in (trainer.G, trainer.D)
            for name, w in network.named_parameters(prefix=type(network).__name__)
        }

    initial = {name: w.clone() for name, w in named_parameters().items()}
    initial_ema = [w.clone() for w in trainer.G_ema.parameters()]
    real = torch.rand(8, 3, 8, 8, generator=generator) - 0.5
    losses_of_steps = [trainer.step(real, generator) for _ in range(4)]
    all_names = {"generator", "discriminator", "path", "r1"}
    names_of_steps = [set(losses) for losses in losses_of_steps]
    assert names_of_steps == [all_names, all_names - {"path", "r1"}] * 2, "regularisation is lazy"
    for losses in losses_of_steps:
        assert all(torch.isfinite(x) and not x.requires_grad for x in losses.values())
    final = named_parameters()
    assert not [name for name, w in final.items() if torch.equal(w, initial[name])], "every parameter is trained"
    assert all(w.requires_grad for w in final.values())
    assert all(not torch.equal(a, b) for a, b in zip(initial_ema, trainer.G_ema.parameters(), strict=True))
    assert torch.equal(trainer.G_ema.mapping.w_avg, trainer.G.mapping.w_avg)
    assert trainer.steps == 4 and trainer.images == 32
    assert 0 < abs(trainer.augment_p - 0.3) < 1.1 * 32 / 500_000, "the augmentation probability follows"


def test_a_step_minimises_the_weighted_losses(monkeypatch):
    """The losses of the optimizers, the decay of the EMA, and the augmented images of the discriminator."""
    weighted_losses, decays, augmented = [], [], []
    optimizer_step = stylegan2_training._optimizer_step

    def record_step(optimizer, loss, weight=1.0):
        weighted_losses.append(weight * loss.item())
        return optimizer_step(optimizer, loss, weight)

    def record_decay(ema, network, decay):
        decays.append(decay)
        update_ema(ema, network, decay)

    def record_images(images, *arguments):
        augmented.append(images)
        return augment(images, *arguments)

    monkeypatch.setattr(stylegan2_training, "_optimizer_step", record_step)
    monkeypatch.setattr(stylegan2_training, "update_ema", record_decay)
    monkeypatch.setattr(stylegan2_training, "augment", record_images)
    options = {"path_length_weight": 2.0, "path_length_interval": 4, "r1_gamma": 3.0, "r1_interval": 16}
    trainer, generator = make_trainer(**options, ema_half_life=100, adaptive_augmentation=True), make_generator()
    real = torch.rand(8, 3, 8, 8, generator=generator)
    losses = trainer.step(real, generator)
    weights = {"generator": 1, "discriminator": 1, "path": 2 * 4, "r1": 3 / 2 * 16}
    assert weighted_losses == pytest.approx([weight * losses[name].item() for name, weight in weights.items()])
    num_real = sum(images is real for images in augmented)
    assert (num_real, len(augmented)) == (2, 4), "generated images twice; real ones twice, since R1 has a step too"
    trainer.images = 100_000
    trainer.step(real, generator)
    assert decays == pytest.approx([0.5 ** (8 / 0.4), 0.5 ** (8 / 100)])
    assert 0 < trainer.mean_path_length < 0.1 * losses["path"].sqrt(), "it starts at zero and follows slowly"


def test_the_discriminators_input_has_noise():
    trainer, generator = make_trainer(noise_std=0.5), make_generator()
    images = torch.zeros(64, 3, 8, 8)
    first, second = (trainer.augment_for_D(images, generator) for _ in range(2))
    assert first.std().item() == pytest.approx(0.5, abs=0.02) and not torch.equal(first, second)


def test_without_options_nothing_is_augmented_or_regularised():
    trainer, generator = make_trainer(r1_gamma=0.0), make_generator()
    images = torch.rand(8, 3, 8, 8, generator=generator)
    assert set(trainer.step(images, generator)) == {"generator", "discriminator"}
    assert trainer.augment_for_D(images, generator) is images and trainer.augment_p == 0
    learning_rates = {o.param_groups[0]["lr"] for o in (trainer.optimizer_G, trainer.optimizer_D)}
    assert learning_rates == {2e-3}, "no regularisation is lazy"


def test_a_few_steps_learn_the_colour_of_the_images():
    """Real images are orange; images of G_ema become orange too, and the same seed gives the same images."""
    colour = torch.tensor([0.8, 0.2, -0.6])[:, None, None]

    def images_after_training():
        trainer, generator = make_trainer(learning_rate=5e-3, ema_half_life=200), make_generator()
        for _ in range(60):
            trainer.step(colour + 0.1 * torch.randn(8, 3, 8, 8, generator=generator), generator)
        return trainer.G_ema(torch.randn(64, 8, generator=make_generator(1)))

    initial_images = make_trainer().G_ema(torch.randn(64, 8, generator=make_generator(1)))
    images = images_after_training()
    initial_error, error = ((x - colour).square().mean().sqrt() for x in (initial_images, images))
    assert error < 0.4 * initial_error
    assert torch.equal(images, images_after_training())


def test_an_auxiliary_loss_changes_the_generator():
    """Real images are black; an auxiliary loss on the brightness makes generated images brighter."""

    def train(**options):
        trainer, generator = make_trainer(learning_rate=5e-3, ema_half_life=200, **options), make_generator()
        for _ in range(30):
            losses = trainer.step(-torch.ones(8, 3, 8, 8), generator)
        return trainer.G_ema(torch.randn(64, 8, generator=make_generator(1))).mean(), losses

    plain_brightness, _ = train()
    brightness, losses = train(auxiliary_loss=lambda images: 20 * (images.mean() - 0.5).square())
    assert {"generator", "auxiliary", "discriminator"} <= set(losses)
    assert brightness > plain_brightness + 0.3


def test_the_mapping_alone_can_minimise_the_auxiliary_loss():
    """Every second step, with twice the weight: synthesis does not change, so an image changes only with its style."""
    calls = []

    def auxiliary_loss(images):
        calls.append(len(images))
        return 20 * (images.mean() - 0.5).square()

    trainer, generator = make_trainer(auxiliary_loss, auxiliary_interval=2), make_generator()
    initial = {name: w.clone() for name, w in trainer.G.named_parameters()}
    losses = trainer.auxiliary_step(torch.zeros(8, 3, 8, 8), generator)
    changed = {name for name, w in trainer.G.named_parameters() if not torch.equal(w, initial[name])}
    assert changed == {name for name in initial if name.startswith("mapping")} and losses["auxiliary"] > 0
    names_of_steps = [set(trainer.step(-torch.ones(8, 3, 8, 8), generator)) for _ in range(4)]
    assert ["auxiliary" in names for names in names_of_steps] == [True, False] * 2 and calls == [8] * 3
    trainer = make_trainer(auxiliary_loss, auxiliary_interval=2, learning_rate=0.2)
    z = torch.randn(64, 8, generator=make_generator(1))
    initial_brightness = trainer.G(z).mean()
    for _ in range(20):
        trainer.auxiliary_step(torch.zeros(8, 3, 8, 8), generator)
    assert trainer.G(z).mean() > initial_brightness + 0.02


def test_the_mapping_alone_changes_how_often_images_are_bright():
    """The synthesis stays, so an image of a style does; also the mean style follows the mapping."""

    def brightness(images):
        return images.mean((1, 2, 3)).sigmoid().mean()

    G = make_trainer().G
    z, styles = (torch.randn(256, 8, generator=make_generator(k)) for k in (1, 2))
    with torch.no_grad():
        image_of_style, initial, mean = G.synthesis(styles), brightness(G(z)), G.mapping.w_avg.clone()
    losses = train_mapping(
        G, lambda images: (brightness(images) - initial - 0.02).square(), 64, steps=120, learning_rate=0.2
    )
    assert len(losses) == 2 and losses[1] < losses[0] / 3
    with torch.no_grad():
        assert float(brightness(G(z)) - initial) == pytest.approx(0.02, abs=0.005)
        assert torch.equal(G.synthesis(styles), image_of_style)
    assert not torch.equal(G.mapping.w_avg, mean)


def test_the_weight_of_a_lazy_auxiliary_loss_is_that_of_the_steps_between(monkeypatch):
    weights = []

    def record_step(optimizer, loss, weight=1.0, parameters=None):
        weights.append(weight)
        return loss.detach()

    monkeypatch.setattr(stylegan2_training, "_optimizer_step", record_step)
    trainer = make_trainer(lambda images: images.mean(), auxiliary_interval=4)
    trainer.auxiliary_step(torch.zeros(8, 3, 8, 8), make_generator())
    assert weights == [4]


def test_second_derivatives_are_not_those_of_compiled_networks(monkeypatch):
    """torch.compile has none."""
    calls = []

    def pretend_to_compile(network, **options):
        def call(*inputs):
            calls.append(type(network).__name__)
            return network.forward(*inputs)

        network._compiled_call_impl = call

    monkeypatch.setattr(nn.Module, "compile", pretend_to_compile)
    real, options = torch.zeros(8, 3, 8, 8), {"path_length_weight": 2.0, "r1_gamma": 1.0}
    make_trainer(**options).step(real, make_generator())
    assert not calls
    trainer = make_trainer(compile=True, **options)
    trainer.adversarial_step(real, make_generator())
    assert calls == ["Mapping", "Synthesis", "Discriminator"] * 2 + ["Discriminator"]
    calls.clear()
    trainer.path_length_step(real, make_generator())
    trainer.r1_step(real, make_generator())
    assert calls == ["Mapping"], "the gradient of path lengths begins at the styles"
    assert "_compiled_call_impl" not in vars(trainer.G_ema.synthesis) or not trainer.G_ema.synthesis._compiled_call_impl


def test_the_auxiliary_loss_gets_the_discriminators_input():
    discriminator_inputs, auxiliary_inputs = [], []

    def auxiliary_loss(images):
        auxiliary_inputs.append(images)
        return images.sum() * 0

    trainer, generator = make_trainer(noise_std=0.5, auxiliary_loss=auxiliary_loss), make_generator()
    trainer.D.register_forward_pre_hook(lambda network, arguments: discriminator_inputs.append(arguments[0]))
    trainer.step(torch.zeros(8, 3, 8, 8), generator)
    assert len(auxiliary_inputs) == 1, "once a step, for the step of G alone"
    equal = [torch.equal(auxiliary_inputs[0], images) for images in discriminator_inputs]
    assert equal[0] and not any(equal[1:])


class BrightnessClassifier(nn.Module):
    """Classifies one attribute: whether an image is bright."""

    def forward(self, images):
        x = 4 * images.mean((1, 2, 3))
        return [torch.stack([-x, x], 1)]


def test_a_training_resumes_where_it_stopped(tmp_path):
    sample_images = portraits.make_image_sampler(40, torch.device("cpu"), 16)
    weights = []
    for name, budgets in (("uninterrupted", (18,)), ("resumed", (5, 18))):
        for steps in budgets:  # each call starts with initial networks, as a new process would
            classifiers = nn.ModuleList([BrightnessClassifier()])
            auxiliary_loss = AttributeMomentLoss(classifiers, torch.ones(4, 3, 16, 16), 100.0)
            trainer = make_trainer(auxiliary_loss, resolution=16, noise_std=0.1, mixing_probability=0.5)
            options = {"steps": steps, "checkpoint": tmp_path / name / "generator.state"}
            log = train_generator(trainer, sample_images, 4, **options)
        assert log.steps == 18 and trainer.images == 72 and trainer.steps == 18
        assert set(log.curve) == {"generator", "auxiliary", "discriminator", "r1"}
        weights.append(torch.cat([w.flatten() for w in trainer.G_ema.parameters()]))
    assert torch.equal(*weights)
    initial = make_trainer(resolution=16).G_ema
    assert not torch.equal(weights[0], torch.cat([w.flatten() for w in initial.parameters()]))


def test_a_loss_that_is_not_computed_at_every_step_is_in_every_mean(tmp_path, monkeypatch):
    """The R1 penalty is computed at steps 0, 16, 32, ...: the second mean, of steps 12 to 17, holds that of step 16."""
    monkeypatch.setattr(stylegan2_training, "LOG_INTERVAL", 12)
    sample_images = portraits.make_image_sampler(8, torch.device("cpu"), 16)
    log = train_generator(make_trainer(resolution=16), sample_images, 2, steps=18, checkpoint=tmp_path / "g.state")
    assert len(log.curve["generator"]) == len(log.curve["r1"]) == 2


def test_a_training_needs_a_budget(tmp_path):
    with pytest.raises(ValueError, match="needs a budget: give steps, seconds or both"):
        train_generator(make_trainer(), lambda n, generator: None, 4, checkpoint=tmp_path / "generator.state")
