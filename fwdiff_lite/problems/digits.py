"""Keyhole digits: handwritten digits S, real ones, of which only small windows are ever seen.

An observation is a window of 3x3 to 5x5 pixels of a digit of 8x8. Its parameters phi = (row, col, size) say
where its upper left corner is and how wide it is. All windows lie on one 8x8 canvas, zero outside of the
window, so that a sampled window can join the context like any other.

The digits are scikit-learn's (UCI, Alpaydin and Kaynak 1998): 1,797 of them, pixels scaled to [-1, 1].
Training draws windows afresh at every step. Whole digits serve the evaluation alone.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from torch import Tensor, nn

from fwdiff_lite import metrics
from fwdiff_lite.backbones import ResidualMLP
from fwdiff_lite.crops import composite_crops, crop_mask
from fwdiff_lite.diffusion import ForwardDiffusion, ForwardRegression
from fwdiff_lite.observations import Observations
from fwdiff_lite.schedule import CosineSchedule

N = 8  # pixels along a side of the canvas
SIZES = (3, 5)  # the smallest and the largest window
HELD_OUT = 297
CONTEXTS = 7  # the model is trained with 0 to 7 windows in the context
STEPS = 2400  # of training, for the model and for its baseline
RATE = {"learning_rate": 2e-3}

# --- the data -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Digits:
    """Whole digits in [-1, 1] with their labels: 1,500 whose windows are trained on, 297 held out."""

    train: Float[Tensor, "n 8 8"]
    train_labels: Int[Tensor, "n"]
    held_out: Float[Tensor, "k 8 8"]
    held_out_labels: Int[Tensor, "k"]


def digits(seed: int = 0) -> Digits:
    """scikit-learn's digits, split at random by digit, always the same way for the same seed."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32) / 8 - 1  # 0 to 16 -> -1 to 1
    labels = torch.tensor(data.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    held_out, train = order[:HELD_OUT], order[HELD_OUT:]
    return Digits(images[train], labels[train], images[held_out], labels[held_out])


# --- the forward model --------------------------------------------------------------------------------------


class Keyhole:
    """The forward model: O = S inside of the window phi, zero outside."""

    def __call__(
        self, signal: Float[Tensor, "b 8 8"], params: Float[Tensor, "b m 3"], pixel_indices=None
    ) -> Float[Tensor, "b m 8 8"]:
        if pixel_indices is not None:
            raise ValueError("a window is small: it is observed whole, so `at` must be None")
        return signal[:, None] * self.support(params)

    def support(self, params: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 8 8"]:
        """1 inside of the window, 0 outside."""
        check_windows(params)
        return crop_mask(params, N)


def check_windows(params: Float[Tensor, "*b 3"]) -> None:
    """A ValueError if a window is not (row, col, size) in whole pixels, or does not fit the canvas."""
    if params.shape[-1:] != (3,):
        raise ValueError(f"a window is (row, col, size): params must be (..., 3), got {tuple(params.shape)}")
    corner, size = params[..., :2], params[..., 2:]
    wrong = (
        ((params != params.round()).any(-1), "is not in whole pixels: round it"),
        (((size < SIZES[0]) | (size > SIZES[1])).any(-1), f"has a size outside {SIZES[0]} to {SIZES[1]}"),
        (
            ((corner < 0) | (corner + size > N)).any(-1),
            f"leaves the {N}x{N} canvas: keep 0 <= row, col <= {N} - size",
        ),
    )
    for bad, what in wrong:
        if bad.any():
            row, col, size = params[bad][0].tolist()
            raise ValueError(f"window (row {row:g}, col {col:g}, size {size:g}) {what}")


def observe(images: Float[Tensor, "b 8 8"], params: Float[Tensor, "b m 3"]) -> Observations:
    """M windows of each of B digits."""
    return Observations(Keyhole()(images, params), params)


def draw_windows(
    n: int, m: int, generator: torch.Generator, shift: Float[Tensor, "n 1 2"] | float = 0.0
) -> Float[Tensor, "n m 3"]:
    """M windows for each of n digits: any size, any place on the canvas, equally likely.

    shift: (rows, columns) by which each digit has been moved over the canvas; windows then keep to the pixels
        that were on the canvas before, for nothing is known of the others
    """
    size = torch.randint(SIZES[0], SIZES[1] + 1, (n, m, 1), generator=generator).float()
    shift = torch.as_tensor(shift, dtype=torch.float32)
    first, last = shift.clamp(min=0), N - size + shift.clamp(max=0)
    corner = first + (torch.rand(n, m, 2, generator=generator) * (last - first + 1)).floor()
    return torch.cat([corner, size], -1)


def move(images: Float[Tensor, "n 8 8"], shift: Float[Tensor, "n 1 2"]) -> Float[Tensor, "n 8 8"]:
    """Digits moved over the canvas by whole pixels; what leaves on one side enters on the other."""
    i = torch.arange(N)
    rows, cols = ((i - shift[:, 0, k, None].long()) % N for k in (0, 1))
    return images[torch.arange(len(images))[:, None, None], rows[:, :, None], cols[:, None, :]]


def batches(
    images: Float[Tensor, "n 8 8"], size: int = 256, novel: int = 2, shift: int = 0, dim: float = 0.0
) -> Callable[[torch.Generator], dict[str, Observations]]:
    """For fit(): windows of `size` digits, 0 to CONTEXTS of them in the context, one the target, some novel.

    Two augmentations that windows alone allow:
    shift: all windows of a digit move together by up to so many pixels each way, for half of the digits
    dim: all windows of a digit lose up to this share of their ink
    """

    def batch(generator: torch.Generator) -> dict[str, Observations]:
        x = images[torch.randint(len(images), (size,), generator=generator)]
        moved: Tensor | float = 0.0
        if shift:
            moved = torch.randint(-shift, shift + 1, (size, 1, 2), generator=generator).float()
            moved = moved * (torch.rand(size, 1, 1, generator=generator) < 0.5)
            x = move(x, moved)
        if dim:
            x = (x + 1) * (1 - dim * torch.rand(size, 1, 1, generator=generator)) - 1
        seen = observe(x, draw_windows(size, CONTEXTS + 1 + novel, generator, moved))
        many = torch.randint(0, CONTEXTS + 1, (size, 1), generator=generator)
        return {
            "context": seen.select(slice(0, CONTEXTS)).mask_out(torch.arange(CONTEXTS) >= many),
            "target": seen.select(slice(CONTEXTS, CONTEXTS + 1)),
            "novel": seen.select(slice(CONTEXTS + 1, None)),
        }

    return batch


def corner_windows(n: int, generator: torch.Generator) -> Float[Tensor, "n 4 3"]:
    """The four 5x5 windows in the canvas's corners, which cover it, in random order."""
    far = N - SIZES[1]
    corners = torch.tensor(
        [[row, col, SIZES[1]] for row in (0, far) for col in (0, far)], dtype=torch.float32
    )
    return corners[torch.rand(n, 4, generator=generator).argsort(1)]


# --- the denoiser -------------------------------------------------------------------------------------------


def canvas(context: Observations) -> tuple[Float[Tensor, "b 8 8"], Float[Tensor, "b 8 8"]]:
    """The context's windows merged, and where they see."""
    support = Keyhole().support(context.params) * context.mask[..., None, None]
    return composite_crops(context.value, support)


def pixel_statistics(batch: Callable, generator: torch.Generator, count: int = 40) -> tuple[Tensor, Tensor]:
    """Mean and variance (8, 8) of each pixel over the training windows that see it."""
    sums = torch.zeros(3, N, N)
    for _ in range(count):
        seen = batch(generator)["novel"]
        support = Keyhole().support(seen.params)
        sums += torch.stack([support, seen.value, seen.value.square()]).sum((1, 2))
    mean, square = sums[1:] / sums[0]
    return mean, square - mean.square()


@dataclass(frozen=True)
class Condition:
    """What a denoiser knows before any noise: the merged context, where it sees, where the target will."""

    picture: Float[Tensor, "b 8 8"]
    seen: Float[Tensor, "b 8 8"]
    support: Float[Tensor, "b m 8 8"]


class KeyholeDenoiser(nn.Module):
    """Eq. 4: a digit from context windows and a noisy target window.

    S = guess + spread * network, kept within the pixels' range [-1, 1]. The guess and its spread treat every
    pixel by itself as Gaussian: known from the context up to a tolerance, elsewhere with the training pixels'
    mean and variance, and updated with the noisy target by Bayes' rule. The network says all the rest: what
    pixels tell of one another. It sees the merged windows only, so their order does not matter.

    mean, variance: (8, 8) from pixel_statistics
    tolerance: scale of what the network may add to a pixel that the context shows; None: the guess leaves the
        context aside, and the network has to learn by itself to repeat it
    bounded: keep S within [-1, 1]; means of pixels lie there too, so no mean is put out of reach
    guess: False leaves all of S to the network
    """

    def __init__(
        self,
        mean: Float[Tensor, "8 8"],
        variance: Float[Tensor, "8 8"],
        width: int = 384,
        depth: int = 2,
        dropout: float = 0.1,
        tolerance: float | None = 0.1,
        bounded: bool = True,
        guess: bool = True,
    ):
        super().__init__()
        self.network = ResidualMLP(4 * N * N, N * N, width, depth, dropout)
        self.schedule = CosineSchedule()
        self.tolerance = tolerance
        self.bounded = bounded
        self.guess = guess
        self.register_buffer("mean", mean.clone())
        self.register_buffer(
            "variance", variance.clamp(min=0.05)
        )  # pixels that are nearly always blank included

    def condition(self, context: Observations, target_params: Float[Tensor, "b m 3"]) -> Condition:
        """The context's canvas, and the target's support."""
        return Condition(*canvas(context), Keyhole().support(target_params))

    def forward(
        self, condition: Condition, noisy_target: Float[Tensor, "b m 8 8"], t: Float[Tensor, "b"]
    ) -> Float[Tensor, "b 8 8"]:
        """Eq. 4: the signal."""
        picture, seen = condition.picture, condition.seen
        noisy, there = composite_crops(noisy_target, condition.support)
        mean, variance = self.mean, self.variance
        if self.tolerance is not None:
            mean = mean + seen * (picture - mean)
            variance = variance + seen * (self.tolerance**2 - variance)
        alpha = (
            self.schedule.alpha(t)[:, None, None] * there
        )  # nothing is known where the target does not see
        sigma2 = 1 - self.schedule.alpha(t)[:, None, None].square() * there
        total = alpha.square() * variance + sigma2
        guess = mean + alpha * variance / total * (noisy - alpha * mean)
        spread = (sigma2 * variance / total).sqrt()
        known = torch.stack([picture, seen, noisy, there], 1).flatten(1)  # (B, 4, 8, 8) -> (B, 256)
        signal = self.network(known, t).unflatten(1, (N, N))
        if self.guess:
            signal = guess + spread * signal
        return signal.clamp(-1, 1) if self.bounded else signal


# --- sampling and judging -----------------------------------------------------------------------------------


def untrained(
    images: Float[Tensor, "n 8 8"], kind: type[ForwardDiffusion] = ForwardDiffusion, seed: int = 0, **options
) -> ForwardDiffusion:
    """A diffusion model, or with kind=ForwardRegression its deterministic baseline, with fresh weights.

    images: whose windows give the pixels' statistics; options: of KeyholeDenoiser
    """
    torch.manual_seed(seed)
    statistics = pixel_statistics(batches(images), torch.Generator().manual_seed(seed))
    return kind(KeyholeDenoiser(*statistics, **options), Keyhole())


def keyholes(images: Float[Tensor, "n 8 8"], count: int = 4, seed: int = 7) -> Observations:
    """The windows through which held-out digits are seen, always the same; the first is the context."""
    return observe(images, draw_windows(len(images), count, torch.Generator().manual_seed(seed)))


def sample_digits(
    model: ForwardDiffusion, context: Observations, k: int, windows: int = 4, seed: int = 0, steps: int = 16
) -> Float[Tensor, "b k 8 8"]:
    """k digits for each context, to which corner windows are added in turn: 4 cover all, 1 is one-shot."""
    generator = torch.Generator().manual_seed(seed)
    sequence = corner_windows(len(context) * k, generator)[:, :windows]
    last, _ = model.sample_autoregressive(
        context.repeat(k), sequence, steps=steps, generator=generator, allow_empty=not context.mask.any()
    )
    return last.signal.unflatten(0, (len(context), k))


def mean_digits(model: ForwardRegression, context: Observations) -> Float[Tensor, "b 8 8"]:
    """The deterministic baseline's digit for each context; it has no noisy target, so any window is one."""
    return model.sample(context, context.params[:, :1], allow_empty=not context.mask.any()).signal


def consistency(
    samples: Float[Tensor, "b k 8 8"], truth: Float[Tensor, "b 8 8"], context: Observations
) -> Float[Tensor, "b"]:
    """Squared error of all samples where the context sees, for each context; their mean is the pooled MSE."""
    seen = canvas(context)[1].bool()
    return metrics.squared_error(samples, truth[:, None].expand_as(samples), seen[:, None])


def decibel(squared_error: Float[Tensor, "b"]) -> Float[Tensor, ""]:
    """PSNR of a mean squared error; the peak is the range of the ink, from -1 to 1."""
    return 10 * (4 / squared_error.mean()).log10()


def reader(
    data: Digits, weight_decay: float = 0.1, seed: int = 0
) -> Callable[[Tensor], Float[Tensor, "*b 10"]]:
    """A classifier trained on whole real training digits: images (..., 8, 8) -> probabilities (..., 10).

    weight_decay: the larger, the softer the answers; the default has a small log-loss on whole training digits
        that were set aside
    """
    network = MLPClassifier((256, 128), alpha=weight_decay, max_iter=60, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 60 epochs are enough
        network.fit(data.train.flatten(1).numpy(), data.train_labels.numpy())

    def read(images: Float[Tensor, "*b 8 8"]) -> Float[Tensor, "*b 10"]:
        flat = images.reshape(-1, N * N)
        return torch.from_numpy(network.predict_proba(flat.numpy())).float().reshape(*images.shape[:-2], 10)

    return read


def pooled(probabilities: Float[Tensor, "b k 10"]) -> Float[Tensor, "b 10"]:
    """The samples' label distribution: their mean reading and one blank vote; k samples rule nothing out."""
    k = probabilities.shape[1]
    return (probabilities.sum(1) + 0.1) / (k + 1)
