"""Windows of digits: signals S are real handwritten digits, observed only through small windows.

An observation is a window of 3x3 to 5x5 pixels of a digit of 8x8 pixels. Its parameters phi = (row, col, size) are
the position of its upper left corner and its side. All windows have the shape of one 8x8 canvas and are zero outside
of the window, so that a sampled window can be appended to the context like any other.

The data set is scikit-learn's (UCI, Alpaydin and Kaynak 1998): 1,797 digits, pixels scaled to [-1, 1]. Every training
step draws new windows. Complete digits are used for the evaluation only.
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
from fwdiff_lite.checks import check_count, check_finite, check_interval, check_last_sizes, check_positive, check_shape
from fwdiff_lite.crops import composite_crops, crop_mask
from fwdiff_lite.diffusion import ForwardDiffusion, ForwardRegression
from fwdiff_lite.observations import Observations
from fwdiff_lite.schedule import CosineSchedule

SIDE = 8  # pixels along a side of the canvas
WINDOW_SIZES = (3, 5)  # the smallest and the largest window
NUM_HELD_OUT = 297  # digits in the test set
MAX_CONTEXTS = 7  # the model is trained with 0 to 7 windows in the context

# --- the data -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DigitSplits:
    """Complete digits in [-1, 1] with their labels: 1,500 for training (by their windows), 297 held out."""

    train: Float[Tensor, "n 8 8"]
    train_labels: Int[Tensor, "n"]
    held_out: Float[Tensor, "k 8 8"]
    held_out_labels: Int[Tensor, "k"]


def load_digit_splits(seed: int = 0) -> DigitSplits:
    """scikit-learn's digits in a random split, which is the same for the same seed."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32) / 8 - 1  # 0 to 16 -> -1 to 1
    labels = torch.tensor(data.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    held_out, train = order[:NUM_HELD_OUT], order[NUM_HELD_OUT:]
    return DigitSplits(images[train], labels[train], images[held_out], labels[held_out])


# --- the forward model --------------------------------------------------------------------------------------


class CropOperator:
    """The forward model: O = S inside of the window phi, zero outside."""

    def __call__(
        self, signal: Float[Tensor, "b 8 8"], params: Float[Tensor, "b m 3"], pixel_indices=None
    ) -> Float[Tensor, "b m 8 8"]:
        if pixel_indices is not None:
            raise ValueError("windows are small and rendered in full: pixel_indices must be None")
        check_images(signal)
        if params.ndim != 3 or len(params) != len(signal):
            raise ValueError(f"params have shape {tuple(params.shape)}, wanted ({len(signal)}, M, 3) for these digits")
        return signal[:, None] * self.support(params)

    def support(self, params: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 8 8"]:
        """1 inside of the window, 0 outside. ValueError as in check_windows."""
        check_windows(params)
        return crop_mask(params, SIDE)


def check_images(images: Float[Tensor, "n 8 8"]) -> None:
    """ValueError if images are not (n, 8, 8) in a floating type, with at least one."""
    if images.ndim != 3 or len(images) < 1:
        raise ValueError(f"images have shape {tuple(images.shape)}, wanted (n, {SIDE}, {SIDE}) with at least one digit")
    check_last_sizes("images", images, SIDE, SIDE)


def check_windows(params: Float[Tensor, "*b 3"]) -> None:
    """ValueError if a window is not (row, col, size) in whole pixels, or does not fit the canvas."""
    if params.shape[-1:] != (3,):
        raise ValueError(f"a window is (row, col, size): params must be (..., 3), got {tuple(params.shape)}")
    corner, size = params[..., :2], params[..., 2:]
    checks = (
        ((params != params.round()).any(-1), "is not in whole pixels: round it"),
        (
            ((size < WINDOW_SIZES[0]) | (size > WINDOW_SIZES[1])).any(-1),
            f"has a size outside {WINDOW_SIZES[0]} to {WINDOW_SIZES[1]}",
        ),
        (
            ((corner < 0) | (corner + size > SIDE)).any(-1),
            f"leaves the {SIDE}x{SIDE} canvas: keep 0 <= row, col <= {SIDE} - size",
        ),
    )
    for invalid, message in checks:
        if invalid.any():
            row, col, size = params[invalid][0].tolist()
            raise ValueError(f"window (row {row:g}, col {col:g}, size {size:g}) {message}")


def observe(images: Float[Tensor, "b 8 8"], params: Float[Tensor, "b m 3"]) -> Observations:
    """M windows of each of B digits."""
    return Observations(CropOperator()(images, params), params)


def sample_windows(
    n: int, m: int, generator: torch.Generator, shift: Float[Tensor, "n 1 2"] | float = 0.0
) -> Float[Tensor, "n m 3"]:
    """Draw M windows for each of n digits: uniform over all sizes, then over all positions on the canvas.

    shift: (rows, columns) by which each digit has been rolled over the canvas. Its windows exclude the pixels that
        were rolled over an edge: no window of the original digit shows these beside the other pixels
    """
    check_count(n=n, m=m)
    size = torch.randint(WINDOW_SIZES[0], WINDOW_SIZES[1] + 1, (n, m, 1), generator=generator).float()
    shift = torch.as_tensor(shift, dtype=torch.float32)
    lowest, highest = shift.clamp(min=0), SIDE - size + shift.clamp(max=0)
    corner = lowest + (torch.rand(n, m, 2, generator=generator) * (highest - lowest + 1)).floor()
    return torch.cat([corner, size], -1)


def roll_images(images: Float[Tensor, "n 8 8"], shift: Float[Tensor, "n 1 2"]) -> Float[Tensor, "n 8 8"]:
    """Each digit rolled over the canvas by its own whole number of rows and columns, as torch.roll does."""
    check_images(images)
    check_shape("shift", shift, (len(images), 1, 2), images=images)
    i = torch.arange(SIDE)
    rows, cols = ((i - shift[:, 0, k, None].long()) % SIDE for k in (0, 1))
    return images[torch.arange(len(images))[:, None, None], rows[:, :, None], cols[:, None, :]]


def batches(
    images: Float[Tensor, "n 8 8"],
    batch_size: int = 256,
    num_novel: int = 2,
    max_shift: int = 0,
    max_ink_dimming: float = 0.0,
) -> Callable[[torch.Generator], dict[str, Observations]]:
    """Batches for fit(): of each digit 0 to MAX_CONTEXTS windows as context, one as target, num_novel as novel.

    Two augmentations, which need no complete digit:
    max_shift: half of the digits are shifted by up to so many rows and columns, all windows of a digit alike
    max_ink_dimming: the ink of each digit is multiplied by a random factor between 1 - max_ink_dimming and 1, in all
        windows of a digit alike

    ValueError if a number is out of range: a shift leaves room for the largest window.
    """
    check_images(images)
    check_count(batch_size=batch_size, num_novel=num_novel)
    check_count(0, max_shift=max_shift)
    check_interval(0, SIDE - WINDOW_SIZES[1], max_shift=max_shift)
    check_interval(0, 1, max_ink_dimming=max_ink_dimming)

    def batch(generator: torch.Generator) -> dict[str, Observations]:
        signals = images[torch.randint(len(images), (batch_size,), generator=generator)]
        shift: Tensor | float = 0.0
        if max_shift:
            shift = torch.randint(-max_shift, max_shift + 1, (batch_size, 1, 2), generator=generator).float()
            shift = shift * (torch.rand(batch_size, 1, 1, generator=generator) < 0.5)
            signals = roll_images(signals, shift)
        if max_ink_dimming:
            dimming = max_ink_dimming * torch.rand(batch_size, 1, 1, generator=generator)
            signals = (signals + 1) * (1 - dimming) - 1
        observations = observe(signals, sample_windows(batch_size, MAX_CONTEXTS + 1 + num_novel, generator, shift))
        num_contexts = torch.randint(0, MAX_CONTEXTS + 1, (batch_size, 1), generator=generator)
        return {
            "context": observations.select(slice(0, MAX_CONTEXTS)).mask_out(torch.arange(MAX_CONTEXTS) >= num_contexts),
            "target": observations.select(slice(MAX_CONTEXTS, MAX_CONTEXTS + 1)),
            "novel": observations.select(slice(MAX_CONTEXTS + 1, None)),
        }

    return batch


def corner_windows(n: int, generator: torch.Generator) -> Float[Tensor, "n 4 3"]:
    """The four 5x5 windows in the corners of the canvas, which cover it, in random order for each of n digits."""
    check_count(n=n)
    offset = SIDE - WINDOW_SIZES[1]
    corners = torch.tensor(
        [[row, col, WINDOW_SIZES[1]] for row in (0, offset) for col in (0, offset)], dtype=torch.float32
    )
    return corners[torch.rand(n, 4, generator=generator).argsort(1)]


# --- the denoiser -------------------------------------------------------------------------------------------


def composite_context(context: Observations) -> tuple[Float[Tensor, "b 8 8"], Float[Tensor, "b 8 8"]]:
    """The context's windows composited on one canvas, and their support: 1 where a window covers the canvas."""
    support = CropOperator().support(context.params) * context.mask[..., None, None]
    return composite_crops(context.value, support)


def pixel_statistics(batch: Callable, generator: torch.Generator, num_batches: int = 40) -> tuple[Tensor, Tensor]:
    """Mean and variance (8, 8) of each pixel over the novel windows of some training batches that cover the pixel."""
    check_count(num_batches=num_batches)
    sums = torch.zeros(3, SIDE, SIDE)
    for _ in range(num_batches):
        windows = batch(generator)["novel"]
        support = CropOperator().support(windows.params)
        sums += torch.stack([support, windows.value, windows.value.square()]).sum((1, 2))
    mean, second_moment = sums[1:] / sums[0]
    return mean, second_moment - mean.square()


@dataclass(frozen=True)
class DigitCondition:
    """The denoiser's condition: the composited context, its support, and the support of each target window."""

    context_image: Float[Tensor, "b 8 8"]
    context_support: Float[Tensor, "b 8 8"]
    target_support: Float[Tensor, "b m 8 8"]


class DigitDenoiser(nn.Module):
    """Eq. 4: a digit from context windows and a noisy target window.

    S = posterior_mean + posterior_std * network, clamped to the pixels' range [-1, 1]. The posterior is that of
    independent Gaussian pixels: the prior has the training pixels' mean and variance, a context window measures its
    pixels with noise of standard deviation context_noise_std, and the noisy target is one more measurement. The
    network predicts the remainder, which comes from the correlations between pixels. Its input is the composited
    context, so the order of the windows has no influence.

    mean, variance: (8, 8) from pixel_statistics
    width, depth, dropout: of the network
    context_noise_std: posterior standard deviation of a pixel in the context; it scales the change that the network
        can make there. None: the posterior ignores the context, and the network has to learn to copy it
    bounded: clamp S to [-1, 1]. The mean of pixels lies in this range, too, so every mean stays reachable
    gaussian_posterior: False gives S = network
    """

    def __init__(
        self,
        mean: Float[Tensor, "8 8"],
        variance: Float[Tensor, "8 8"],
        width: int = 384,
        depth: int = 2,
        dropout: float = 0.1,
        context_noise_std: float | None = 0.1,
        bounded: bool = True,
        gaussian_posterior: bool = True,
    ):
        super().__init__()
        for name, x in (("mean", mean), ("variance", variance)):
            check_shape(name, x, (SIDE, SIDE))
            check_finite(**{name: x})
        if context_noise_std is not None:
            check_positive(context_noise_std=context_noise_std)
        self.network = ResidualMLP(4 * SIDE * SIDE, SIDE * SIDE, width, depth, dropout)
        self.schedule = CosineSchedule()
        self.context_noise_std = context_noise_std
        self.bounded = bounded
        self.gaussian_posterior = gaussian_posterior
        self.register_buffer("mean", mean.clone())
        self.register_buffer("variance", variance.clamp(min=0.05))  # some pixels are blank in nearly all digits

    def condition(
        self, context: Observations, target_params: Float[Tensor, "b m 3"], target_mask=None
    ) -> DigitCondition:
        """The composited context, its support, and the target's support: zero for a masked target."""
        target_support = CropOperator().support(target_params)
        if target_mask is not None:
            target_support = target_support * target_mask[..., None, None]
        return DigitCondition(*composite_context(context), target_support)

    def forward(
        self, condition: DigitCondition, noisy_target: Float[Tensor, "b m 8 8"], t: Float[Tensor, "b"]
    ) -> Float[Tensor, "b 8 8"]:
        """Eq. 4: the signal."""
        context_image, context_support = condition.context_image, condition.context_support
        noisy_image, target_support = composite_crops(noisy_target, condition.target_support)
        mean, variance = self.mean, self.variance
        if self.context_noise_std is not None:
            mean = mean + context_support * (context_image - mean)
            variance = variance + context_support * (self.context_noise_std**2 - variance)
        alpha = self.schedule.alpha(t)[:, None, None] * target_support  # 0: no measurement outside of the target
        noise_variance = 1 - self.schedule.alpha(t)[:, None, None].square() * target_support
        total_variance = alpha.square() * variance + noise_variance
        posterior_mean = mean + alpha * variance / total_variance * (noisy_image - alpha * mean)
        posterior_std = (noise_variance * variance / total_variance).sqrt()
        features = torch.stack([context_image, context_support, noisy_image, target_support], 1).flatten(1)  # (B, 256)
        signal = self.network(features, t).unflatten(1, (SIDE, SIDE))
        if self.gaussian_posterior:
            signal = posterior_mean + posterior_std * signal
        return signal.clamp(-1, 1) if self.bounded else signal


# --- sampling and evaluation --------------------------------------------------------------------------------


def build_model(
    images: Float[Tensor, "n 8 8"],
    model_class: type[ForwardDiffusion] = ForwardDiffusion,
    seed: int = 0,
    **denoiser_options,
) -> ForwardDiffusion:
    """An untrained diffusion model, or with model_class=ForwardRegression its deterministic baseline.

    images: digits whose windows give the pixel statistics
    denoiser_options: of DigitDenoiser
    """
    torch.manual_seed(seed)
    statistics = pixel_statistics(batches(images), torch.Generator().manual_seed(seed))
    return model_class(DigitDenoiser(*statistics, **denoiser_options), CropOperator())


def make_test_windows(images: Float[Tensor, "n 8 8"], num_windows: int = 4, seed: int = 7) -> Observations:
    """The windows of held-out digits, the same for the same seed. The first window of each digit is the context."""
    return observe(images, sample_windows(len(images), num_windows, torch.Generator().manual_seed(seed)))


def sample_posterior(
    model: ForwardDiffusion,
    context: Observations,
    num_samples: int,
    num_windows: int = 4,
    seed: int = 0,
    steps: int = 16,
) -> Float[Tensor, "b k 8 8"]:
    """num_samples digits for each context, sampled autoregressively over corner windows.

    num_windows: 4 windows cover the canvas; 1 window is one-shot sampling

    ValueError if num_samples or num_windows is out of range.
    """
    check_count(num_samples=num_samples, num_windows=num_windows)
    check_interval(1, 4, num_windows=num_windows)  # the windows in the corners
    generator = torch.Generator().manual_seed(seed)
    params_sequence = corner_windows(len(context) * num_samples, generator)[:, :num_windows]
    step, _ = model.sample_autoregressive(
        context.repeat(num_samples),
        params_sequence,
        steps=steps,
        generator=generator,
        allow_empty=not context.mask.any(),
    )
    return step.signal.unflatten(0, (len(context), num_samples))


def predict_deterministic(model: ForwardRegression, context: Observations) -> Float[Tensor, "b 8 8"]:
    """The deterministic baseline's digit for each context. The target window has no influence on it."""
    return model.sample(context, context.params[:, :1], allow_empty=not context.mask.any()).signal


def context_squared_error(
    samples: Float[Tensor, "b k 8 8"], truth: Float[Tensor, "b 8 8"], context: Observations
) -> Float[Tensor, "b"]:
    """For each context, the squared error of its samples at the pixels that the context covers.

    The mean over contexts is the mean squared error pooled over all these pixels, as in metrics.squared_error.
    """
    support = composite_context(context)[1].bool()
    return metrics.squared_error(samples, truth[:, None].expand_as(samples), support[:, None])


def psnr_from_squared_error(squared_error: Float[Tensor, "b"]) -> Float[Tensor, ""]:
    """PSNR in dB of the mean of the squared errors; the peak is the range of the ink, from -1 to 1."""
    return 10 * (4 / squared_error.mean()).log10()


def train_classifier(
    data: DigitSplits, weight_decay: float = 0.1, seed: int = 0
) -> Callable[[Tensor], Float[Tensor, "*b 10"]]:
    """Train a classifier on complete training digits; it maps images (..., 8, 8) to label probabilities (..., 10).

    weight_decay: a larger value makes the probabilities less certain. The default gave a small log-loss on complete
        training digits that were set aside
    """
    network = MLPClassifier((256, 128), alpha=weight_decay, max_iter=60, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 60 epochs are enough
        network.fit(data.train.flatten(1).numpy(), data.train_labels.numpy())

    def predict(images: Float[Tensor, "*b 8 8"]) -> Float[Tensor, "*b 10"]:
        flat = images.reshape(-1, SIDE * SIDE)
        return torch.from_numpy(network.predict_proba(flat.numpy())).float().reshape(*images.shape[:-2], 10)

    return predict


def smoothed_label_distribution(probabilities: Float[Tensor, "b k 10"]) -> Float[Tensor, "b 10"]:
    """The label distribution of k samples: the mean of their probabilities and of one uniform pseudo-sample.

    The pseudo-sample keeps every probability above 0, since k samples cannot exclude a label.
    """
    if probabilities.ndim != 3 or probabilities.shape[1] < 1:
        raise ValueError(f"probabilities has shape {tuple(probabilities.shape)}, wanted (B, k, 10)")
    k = probabilities.shape[1]
    return (probabilities.sum(1) + 0.1) / (k + 1)
