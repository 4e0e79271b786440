"""The training of StyleGAN2: losses (SG2), adaptive augmentation (ADA), and the trainer of the two networks."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from fwdiff_lite.devices import CUDAGraphCallable
from fwdiff_lite.problems.gan_inversion.stylegan2 import Discriminator, Generator, mix_styles
from fwdiff_lite.storage.files import atomic_write
from fwdiff_lite.training import TrainingLog

LOG_INTERVAL = 100  # steps between two reads of the losses: each of them makes a GPU wait
CHECKPOINT_INTERVAL = 2000  # steps between two states that a training can resume from
STATE_NETWORKS = ("G", "D", "G_ema", "optimizer_G", "optimizer_D")  # attributes of a trainer that have a state_dict
STATE_NUMBERS = ("augment_p", "mean_path_length", "steps", "images")


def generator_loss(fake_logits: Float[Tensor, "b"]) -> Float[Tensor, ""]:
    """-log sigmoid(D(G(z))): non-saturating (Goodfellow et al. 2014)."""
    return F.softplus(-fake_logits).mean()


def discriminator_loss(real_logits: Float[Tensor, "b"], fake_logits: Float[Tensor, "n"]) -> Float[Tensor, ""]:
    """-log sigmoid(D(x)) - log(1 - sigmoid(D(G(z))))."""
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def r1_penalty(discriminator: Callable[[Tensor], Tensor], images: Float[Tensor, "b *s"]) -> Float[Tensor, ""]:
    """The mean of |grad D|^2 at real images; its weight is gamma / 2 (Mescheder et al. 2018, Eq. 9)."""
    images = images.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(discriminator(images).sum(), images, create_graph=True)
    return gradient.square().flatten(1).sum(1).mean()


def path_lengths(
    images: Float[Tensor, "b c h w"], ws: Float[Tensor, "b l d"], noise: Float[Tensor, "b c h w"]
) -> Float[Tensor, "b"]:
    """|J^T y| of SG2, Eq. 4, with y = noise / sqrt(h w): how far images move with their styles; rms over the layers."""
    direction = noise / math.sqrt(images[0, 0].numel())
    (gradient,) = torch.autograd.grad((images * direction).sum(), ws, create_graph=True)
    return gradient.square().sum(2).mean(1).sqrt()


ADA_P_MAX = 0.8  # below this probability, augmentations do not leak into generated images (ADA, section 2.2)


def augment(
    images: Float[Tensor, "b c h h"], p: float | Float[Tensor, ""], generator: torch.Generator
) -> Float[Tensor, "b c h h"]:
    """ADA's augmentations (section 2.3), without low-pass filters and hue: each is applied to each image with chance p.

    A mirror image or not; a rotation by a multiple of 90 degrees; a shift by whole pixels (along both axes, at most an
    eighth of the side); a scale 2^(0.2 n); brightness + 0.2 n, contrast times 2^(0.5 n), saturation times 2^n, with
    n ~ N(0, 1). An image is continued by reflection at its borders. The result is differentiable once with respect to
    the images. The generator lives on their device.
    """
    b, _, h, _ = images.shape
    options = {"generator": generator, "device": generator.device}

    def sometimes(value: Float[Tensor, "b *k"], identity: float) -> Float[Tensor, "b *k"]:
        chosen = torch.rand(b, **options) < p
        return torch.where(chosen.view(-1, *[1] * (value.ndim - 1)), value, identity)

    def random_factor(octaves: float) -> Float[Tensor, "b"]:
        return sometimes(2 ** (octaves * torch.randn(b, **options)), 1.0)

    mirror = sometimes(torch.randint(2, (b,), **options) * 2.0 - 1, 1.0)
    angle = sometimes(torch.randint(4, (b,), **options) * 1.0, 0.0) * (math.pi / 2)
    max_shift = h // 8
    shift = sometimes(torch.randint(-max_shift, max_shift + 1, (b, 2), **options) * (2 / h), 0.0)
    scale = random_factor(0.2)
    cos, sin = angle.cos().round() / scale, angle.sin().round() / scale
    # the affine map from a pixel's position in the new image, (x, y) in [-1, 1]^2, to its position in the old one
    rows = [torch.stack([mirror * cos, -mirror * sin], 1), torch.stack([sin, cos], 1)]
    affine = torch.cat([torch.stack(rows, 1), shift[..., None]], 2)  # (B, 2, 3)
    grid = F.affine_grid(affine.to(images), list(images.shape), align_corners=False)
    images = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)

    brightness = sometimes(0.2 * torch.randn(b, **options), 0.0)
    colour_params = (brightness, random_factor(0.5), random_factor(1.0))
    brightness, contrast, saturation = (x.to(images).view(b, 1, 1, 1) for x in colour_params)
    images = (images + brightness) * contrast
    grey = images.mean(1, keepdim=True)
    return grey + saturation * (images - grey)


def ada_update(
    p: Float[Tensor, ""], real_logits: Float[Tensor, "b"], target: float = 0.6, span: float = 500_000
) -> Float[Tensor, ""]:
    """The next augmentation probability: it rises if the discriminator overfits, E[sign D(real)] > target (ADA, Eq. 1).

    span: the number of images over which p can rise from 0 to 1. p stays between 0 and ADA_P_MAX.
    """
    return (p + (real_logits.sign().mean() - target).sign() * (len(real_logits) / span)).clamp(0, ADA_P_MAX)


@torch.no_grad()
def update_ema(ema: nn.Module, network: nn.Module, decay: float) -> None:
    """One step of the exponential moving average of a network's parameters. Buffers are copied."""
    torch._foreach_lerp_(list(ema.parameters()), list(network.parameters()), 1 - decay)
    for ema_buffer, buffer in zip(ema.buffers(), network.buffers(), strict=True):
        ema_buffer.copy_(buffer)


def lazy_adam(network: nn.Module, learning_rate: float, interval: int | None) -> torch.optim.Adam:
    """Adam with lazy regularisation: after `interval` steps, one further step on the regulariser (SG2, appendix B)."""
    c = interval / (interval + 1) if interval else 1.0
    on_gpu = next(network.parameters()).is_cuda
    options = {"capturable": on_gpu, "fused": on_gpu}  # in a CUDA graph, in few kernels
    return torch.optim.Adam(network.parameters(), learning_rate * c, betas=(0.0, 0.99**c), **options)


@dataclass(frozen=True)
class TrainerOptions:
    """Options of a StyleGAN2Trainer.

    r1_gamma: the weight gamma of the R1 penalty. One step in r1_interval minimises it, with r1_interval times the
        weight (lazy regularisation). ADA's rule of thumb is 2e-4 resolution^2 / batch size
    path_length_weight: of path length regularisation, on half a batch, one step in path_length_interval; 0: none
    mixing_probability: the probability that an image mixes two styles
    ema_half_life: of the weights' average, in images; shorter at first, a twentieth of the images so far
    adaptive_augmentation: augment all images of D, with a probability `augment_p` that follows `ada_update`
    noise_std: standard deviation of the noise on all images of D (instance noise: Sønderby et al. 2017; also one of
        ADA's augmentations). It hides small faults of images, so that D learns how often attributes occur
    auxiliary_interval: None: the auxiliary loss is minimised at every step of G, by all parameters. Otherwise it is
        minimised at one step in auxiliary_interval, with that many times its weight, by the mapping alone. The mapping
        changes the frequency of images; it cannot draw images that deceive the loss
    compile: compile the networks; regularisers with second derivatives use the plain ones
    """

    learning_rate: float = 2e-3
    r1_gamma: float = 1.0
    r1_interval: int = 16
    path_length_weight: float = 0.0
    path_length_interval: int = 4
    mixing_probability: float = 0.9
    ema_half_life: float = 10_000
    adaptive_augmentation: bool = False
    noise_std: float = 0.0
    auxiliary_interval: int | None = None
    compile: bool = False


class StyleGAN2Trainer:
    """Trains a generator G and a discriminator D, step by step; `G_ema` is the generator to keep.

    auxiliary_loss: a further loss of G, on images with D's augmentation and noise
    """

    def __init__(
        self,
        G: Generator,
        D: Discriminator,
        options: TrainerOptions,
        auxiliary_loss: Callable[[Float[Tensor, "b c h w"]], Float[Tensor, ""]] | None = None,
    ):
        self.G, self.D, self.G_ema = G, D, copy.deepcopy(G).eval().requires_grad_(False)
        self.options, self.auxiliary_loss = options, auxiliary_loss
        path_length_interval = options.path_length_interval if options.path_length_weight else None
        self.optimizer_G = lazy_adam(G, options.learning_rate, path_length_interval)
        self.optimizer_D = lazy_adam(D, options.learning_rate, options.r1_interval if options.r1_gamma else None)
        self.augment_p, self.mean_path_length = (G.mapping.w_avg.new_zeros(()) for _ in range(2))
        self.steps = self.images = 0  # so far
        if options.compile:
            for network in (G.mapping, G.synthesis, D):
                network.compile(dynamic=False)

    def state_dict(self) -> dict[str, Any]:
        """All that a training changes; the auxiliary loss aside."""
        networks = {name: getattr(self, name).state_dict() for name in STATE_NETWORKS}
        return networks | {name: getattr(self, name) for name in STATE_NUMBERS}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state from `state_dict`."""
        for name in STATE_NETWORKS:
            getattr(self, name).load_state_dict(state[name])
        for name in STATE_NUMBERS:
            setattr(self, name, state[name])

    def sample_styles(self, n: int, generator: torch.Generator) -> Float[Tensor, "n l d"]:
        """Styles in W+ of n images. With the mixing probability, an image mixes two styles."""
        device, num_layers = generator.device, self.G.synthesis.num_layers
        z = torch.randn(2, n, self.G.mapping.z_dim, generator=generator, device=device)
        cutoff = torch.randint(1, num_layers, (n,), generator=generator, device=device)
        unmixed = torch.rand(n, generator=generator, device=device) >= self.options.mixing_probability
        w, other = self.G.mapping(z.flatten(0, 1)).chunk(2)
        self.G.mapping.update_w_avg(w)
        return mix_styles(w, other, cutoff.masked_fill(unmixed, num_layers), num_layers)

    def generate(self, n: int, generator: torch.Generator) -> Float[Tensor, "n c h w"]:
        """n generated images."""
        ws = self.sample_styles(n, generator)
        return self.G.synthesis(ws, self.G.synthesis.sample_noise(n, generator))

    def augment_for_D(self, images: Float[Tensor, "b c h w"], generator: torch.Generator) -> Float[Tensor, "b c h w"]:
        """The input of D for these images: augmentation and noise, where they are switched on."""
        if self.options.adaptive_augmentation:
            images = augment(images, self.augment_p, generator)
        if self.options.noise_std:
            noise = torch.randn(images.shape, generator=generator, device=images.device)
            images = images + self.options.noise_std * noise
        return images

    def step(self, real: Float[Tensor, "b c h w"], generator: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        """One step of G, one step of D, and the regularisers that are due. Returns the losses by name.

        Images, networks and generator are on one device.
        """
        n, losses = len(real), self.adversarial_step(real, generator)
        if self.options.path_length_weight and self.steps % self.options.path_length_interval == 0:
            losses |= self.path_length_step(real, generator)
        if self.options.r1_gamma and self.steps % self.options.r1_interval == 0:
            losses |= self.r1_step(real, generator)
        interval = self.options.auxiliary_interval
        if self.auxiliary_loss and interval and self.steps % interval == 0:
            losses |= self.auxiliary_step(real, generator)
        self.steps, self.images = self.steps + 1, self.images + n
        update_ema(self.G_ema, self.G, 0.5 ** (n / min(self.options.ema_half_life, 0.05 * self.images)))
        return losses

    def adversarial_step(
        self, real: Float[Tensor, "b c h w"], generator: torch.Generator
    ) -> dict[str, Float[Tensor, ""]]:
        """One step of G, then one of D."""
        losses = {}
        self.D.requires_grad_(False)
        augmented = self.augment_for_D(self.generate(len(real), generator), generator)
        loss = generator_loss(self.D(augmented))
        losses["generator"] = loss.detach()
        if self.auxiliary_loss and not self.options.auxiliary_interval:
            auxiliary_loss = self.auxiliary_loss(augmented)
            losses["auxiliary"], loss = auxiliary_loss.detach(), loss + auxiliary_loss
        _optimizer_step(self.optimizer_G, loss)
        self.D.requires_grad_(True)
        with torch.no_grad():
            fake = self.generate(len(real), generator)
        real_logits = self.D(self.augment_for_D(real, generator))
        loss = discriminator_loss(real_logits, self.D(self.augment_for_D(fake, generator)))
        losses["discriminator"] = _optimizer_step(self.optimizer_D, loss)
        if self.options.adaptive_augmentation:
            self.augment_p.copy_(ada_update(self.augment_p, real_logits.detach()))
        return losses

    def path_length_step(
        self, real: Float[Tensor, "b c h w"], generator: torch.Generator
    ) -> dict[str, Float[Tensor, ""]]:
        """A step of G on path length regularisation: path lengths are pulled towards their running mean.

        A compiled synthesis has no second derivative, so its plain `forward` is used.
        """
        ws, synthesis = self.sample_styles(max(1, len(real) // 2), generator), self.G.synthesis
        images = synthesis.forward(ws, synthesis.sample_noise(len(ws), generator))
        noise = torch.randn(images.shape, generator=generator, device=images.device)
        lengths = path_lengths(images, ws, noise)
        self.mean_path_length.lerp_(lengths.detach().mean(), 0.01)
        loss = (lengths - self.mean_path_length).square().mean()
        weight = self.options.path_length_weight * self.options.path_length_interval
        return {"path": _optimizer_step(self.optimizer_G, loss, weight)}

    def auxiliary_step(
        self, real: Float[Tensor, "b c h w"], generator: torch.Generator
    ) -> dict[str, Float[Tensor, ""]]:
        """A step of the mapping alone on the auxiliary loss."""
        loss = self.auxiliary_loss(self.augment_for_D(self.generate(len(real), generator), generator))
        mapping = list(self.G.mapping.parameters())
        return {"auxiliary": _optimizer_step(self.optimizer_G, loss, self.options.auxiliary_interval, mapping)}

    def r1_step(self, real: Float[Tensor, "b c h w"], generator: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        """A step of D on the R1 penalty, at D's input after augmentation: `augment` has no second derivative.

        A compiled D has none either, so its plain `forward` is used.
        """
        loss = r1_penalty(self.D.forward, self.augment_for_D(real, generator))
        return {"r1": _optimizer_step(self.optimizer_D, loss, (self.options.r1_gamma / 2) * self.options.r1_interval)}


def _optimizer_step(
    optimizer: torch.optim.Optimizer,
    loss: Float[Tensor, ""],
    weight: float = 1.0,
    parameters: list[nn.Parameter] | None = None,
) -> Float[Tensor, ""]:
    """A step on weight * loss, of these parameters or of all. Returns the loss without its weight."""
    optimizer.zero_grad()
    (weight * loss).backward(inputs=parameters)
    optimizer.step()
    return loss.detach()


def train_generator(
    trainer: StyleGAN2Trainer,
    sample_images: Callable[[int, torch.Generator], Float[Tensor, "n c h w"]],
    batch_size: int,
    *,
    steps: int | None = None,
    seconds: float | None = None,
    seed: int = 0,
    checkpoint: Path,
) -> TrainingLog:
    """Trains generator and discriminator within a budget, and saves a state that the next call resumes from.

    sample_images: returns n real images, given n and a generator on the CPU
    steps, seconds: the budget, whichever ends first, earlier calls included. ValueError without a budget

    The curve of the log holds the mean losses of every LOG_INTERVAL steps, and of the last ones of a call.
    """
    if steps is None and seconds is None:
        raise ValueError("a training needs a budget: give steps, seconds or both")
    device = next(trainer.G.parameters()).device
    generators = torch.Generator().manual_seed(seed), torch.Generator(device).manual_seed(seed)
    cpu_generator, device_generator = generators
    log = _resume(checkpoint, trainer, generators) if checkpoint.exists() else TrainingLog()
    trainer.adversarial_step = CUDAGraphCallable(trainer.adversarial_step, device_generator)
    trainer.r1_step = CUDAGraphCallable(trainer.r1_step, device_generator)
    trainer.auxiliary_step = CUDAGraphCallable(trainer.auxiliary_step, device_generator)
    start_time, recent_losses = time.monotonic() - log.seconds, []
    while (steps is None or log.steps < steps) and (seconds is None or log.seconds < seconds):
        recent_losses.append(trainer.step(sample_images(batch_size, cpu_generator), device_generator))
        log.steps += 1
        if log.steps % LOG_INTERVAL == 0:
            _move_means(recent_losses, log)
        log.seconds = time.monotonic() - start_time
        if log.steps % CHECKPOINT_INTERVAL == 0:
            _save_state(checkpoint, trainer, generators, log)
    _move_means(recent_losses, log)
    _save_state(checkpoint, trainer, generators, log)
    return log


def train_mapping(
    G: Generator,
    image_loss: Callable[[Float[Tensor, "b c h w"]], Float[Tensor, ""]],
    batch_size: int,
    *,
    steps: int,
    learning_rate: float = 0.05,
    seed: int = 0,
) -> list[float]:
    """Trains the mapping alone on a loss of generated images, in place.

    Returns the mean loss of every LOG_INTERVAL steps.

    A loss of how often attributes occur changes the frequencies of images. The synthesis is fixed, so an image of a
    style stays as it is. The learning rate is large since weights of the mapping are: see `Mapping`.
    """
    generator = torch.Generator(G.mapping.w_avg.device).manual_seed(seed)
    parameters = list(G.mapping.parameters())
    optimizer = torch.optim.Adam(parameters, learning_rate, betas=(0.9, 0.99))
    scheduler, losses = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1)), []
    for _ in range(steps):
        z = torch.randn(batch_size, G.mapping.z_dim, generator=generator, device=generator.device)
        w = G.mapping(z)
        G.mapping.update_w_avg(w)
        loss = image_loss(G.synthesis(w, G.synthesis.sample_noise(batch_size, generator)))
        losses.append(_optimizer_step(optimizer, loss, parameters=parameters))
        scheduler.step()
    return [float(torch.stack(losses[k : k + LOG_INTERVAL]).mean()) for k in range(0, steps, LOG_INTERVAL)]


def _move_means(recent_losses: list[dict[str, Float[Tensor, ""]]], log: TrainingLog) -> None:
    """Moves the mean of each loss to the curve of the log. Not every step has every loss."""
    for name in dict.fromkeys(name for losses in recent_losses for name in losses):
        mean = torch.stack([losses[name] for losses in recent_losses if name in losses]).mean()
        log.curve.setdefault(name, []).append(float(mean))
    recent_losses.clear()


Generators = tuple[torch.Generator, torch.Generator]  # on the CPU, and on the device of the networks


def _save_state(path: Path, trainer: StyleGAN2Trainer, generators: Generators, log: TrainingLog) -> None:
    state = {
        "trainer": trainer.state_dict(),
        "random": [generator.get_state() for generator in generators],
        "log": vars(log),
    }
    if trainer.auxiliary_loss:
        state["running_moments"] = trainer.auxiliary_loss.running_moments
    with atomic_write(path) as temporary:
        torch.save(state, temporary)


def _resume(path: Path, trainer: StyleGAN2Trainer, generators: Generators) -> TrainingLog:
    state = torch.load(path, weights_only=True, map_location=next(trainer.G.parameters()).device)
    trainer.load_state_dict(state["trainer"])
    for generator, random_state in zip(generators, state["random"], strict=True):
        generator.set_state(random_state.cpu())
    if trainer.auxiliary_loss:
        trainer.auxiliary_loss.running_moments.copy_(state["running_moments"])
    return TrainingLog(**state["log"])
