"""Metrics of images, and of sets of images or of their features."""

import importlib
import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fwdiff_lite.checks import (
    check_count,
    check_distance_types,
    check_float,
    check_positive,
    check_shape,
    format_shape,
)
from fwdiff_lite.metrics.checks import broadcast_mask, check_sample_shapes, check_sets
from fwdiff_lite.metrics.scores import squared_error


def frechet_distance(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> float:
    """Squared Fréchet distance of two sets, each taken as normal: |mx - my|^2 + tr(Cx + Cy - 2 (Cx Cy)^(1/2)).

    It has the squared unit of the features. Two halves of one set of n rows have a distance of about d / n times their
    variance: report that distance too. It is an FID only with the features of the Inception network.
    Source: Heusel et al. 2017.
    """
    check_sets(x, y, min_rows=2)
    x, y = x.double(), y.double()
    mean_x, mean_y = (z.mean(0) for z in (x, y))
    cov_x, cov_y = (torch.cov(z.T).reshape(x.shape[1], -1) for z in (x, y))
    eigenvalues, eigenvectors = torch.linalg.eigh(cov_x)
    sqrt_cov_x = eigenvectors * eigenvalues.clamp(min=0).sqrt() @ eigenvectors.T
    # the trace of (Cx Cy)^(1/2) is that of (Cx^(1/2) Cy Cx^(1/2))^(1/2), which is symmetric
    trace_sqrt = torch.linalg.eigvalsh(sqrt_cov_x @ cov_y @ sqrt_cov_x).clamp(min=0).sqrt().sum()
    return float((mean_x - mean_y).square().sum() + cov_x.trace() + cov_y.trace() - 2 * trace_sqrt)


def precision_recall(real: Float[Tensor, "n d"], fake: Float[Tensor, "m d"], k: int = 3) -> tuple[float, float]:
    """Precision, the fraction of fake points in the real set's manifold, and recall, that of real points in the fakes'.

    The manifold of a set is the union of balls around its points. The radius of a ball is the distance to the k-th
    nearest other point of the set. Source: Kynkäänniemi et al. 2019.
    """
    check_count(k=k)
    check_sets(real, fake, min_rows=k + 1)
    check_distance_types(real=real, fake=fake)

    def fraction_inside(points: Tensor, manifold: Tensor) -> float:
        # chunks of a thousand points save memory; the nearest point of the set to a point of it is the point itself
        nearest = (torch.cdist(chunk, manifold).topk(k + 1, largest=False).values for chunk in manifold.split(1000))
        radii = torch.cat([distances[:, -1] for distances in nearest])
        is_inside = [(torch.cdist(chunk, manifold) <= radii).any(1) for chunk in points.split(1000)]
        return float(torch.cat(is_inside).double().mean())

    return fraction_inside(fake, real), fraction_inside(real, fake)


def psnr(
    prediction: Float[Tensor, "c *obs"],
    truth: Float[Tensor, "c *obs"],
    peak: float,
    mask: Bool[Tensor, "..."] | None = None,
) -> float:
    """Peak signal-to-noise ratio in dB of the squared error pooled over all scored elements and contexts.

    `peak` is the range of the data: 1 for [0, 1], 2 for [-1, 1]. The PSNR of a perfect posterior sample is 3 dB BELOW
    that of the posterior mean. For an interval, bootstrap 10 log10(peak^2 / mean) over `squared_error`.
    """
    check_positive(peak=peak)
    error = float(squared_error(prediction, truth, mask).mean())
    return 10 * math.log10(peak**2 / error) if error > 0 else math.inf


def best_of(samples: Float[Tensor, "c K *obs"], truth: Float[Tensor, "c *obs"]) -> Float[Tensor, "c *obs"]:
    """The sample of each context with the smallest squared error. Report K with every number that it gives."""
    check_sample_shapes(samples, truth)
    error = (samples - truth[:, None]).reshape(*samples.shape[:2], -1).square().sum(-1)
    return samples[torch.arange(len(samples), device=samples.device), error.argmin(1)]


def ssim(
    prediction: Float[Tensor, "c channels h w"], truth: Float[Tensor, "c channels h w"], peak: float
) -> Float[Tensor, "c"]:
    """Structural similarity (SSIM) of each image, with a Gaussian window of sigma 1.5 (11 x 11), mean over channels.

    `peak` is the range of the data. ValueError if the images are smaller than 11 x 11. Source: Wang et al. 2004.
    """
    check_float(prediction=prediction, truth=truth)
    check_shape("truth", truth, prediction.shape, prediction=prediction)
    if prediction.ndim != 4 or min(prediction.shape[-2:]) < 11:
        raise ValueError(f"prediction has shape {format_shape(prediction)}, wanted (c, channels, h >= 11, w >= 11)")
    check_positive(peak=peak)
    from skimage.metrics import structural_similarity  # its import takes a third of a second

    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    pairs = zip(prediction.double().cpu().numpy(), truth.double().cpu().numpy(), strict=True)
    values = [structural_similarity(p, t, data_range=peak, channel_axis=0, **window) for p, t in pairs]
    return torch.tensor(values)


def total_variation(images: Float[Tensor, "*batch h w"]) -> Float[Tensor, "*batch"]:
    """Mean absolute difference between vertical and horizontal neighbours; h = 1 is an image of one row.

    The ratio of total_variation(samples).mean() to that of real observations is 1 for right samples, and below 1 for
    blurred ones.
    """
    check_float(images=images)
    if images.ndim < 2 or images.shape[-2] * images.shape[-1] < 2:
        raise ValueError(f"images has shape {format_shape(images)}, wanted (..., h, w) with at least two pixels")
    vertical, horizontal = images.diff(dim=-2).abs(), images.diff(dim=-1).abs()
    num_pairs = vertical.shape[-2] * vertical.shape[-1] + horizontal.shape[-2] * horizontal.shape[-1]
    return (vertical.sum((-2, -1)) + horizontal.sum((-2, -1))) / num_pairs


def variance_inside_outside(samples: Float[Tensor, "c K *obs"], mask: Bool[Tensor, "..."]) -> tuple[float, float]:
    """The unbiased sample variance, averaged over the elements where `mask` is True, and over those where it is False.

    `mask` broadcasts to (c, *obs); for example, it is True for the pixels that the context shows.
    """
    check_sample_shapes(samples, min_samples=2)
    variance = samples.var(1)
    inside = broadcast_mask(mask, variance)
    outside = broadcast_mask(~inside, variance)
    return float(variance[inside].mean()), float(variance[outside].mean())


class OptionalDependencyError(RuntimeError):
    """A metric needs an optional package, or the weights of a network, and they are not available."""


def _torchmetric(module: str, name: str, **options):
    """An image metric of torchmetrics, which downloads the weights of its network if it does not have them."""
    try:
        return getattr(importlib.import_module(f"torchmetrics.image.{module}"), name)(**options)
    except (ImportError, OSError, RuntimeError) as error:  # a package or the weights are missing
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise OptionalDependencyError(
            f"{name} is not available ({reason}): pip install -e '.[perceptual]', and download its weights once"
        ) from None


def _check_rgb(**images: Tensor) -> None:
    """ValueError unless all images are (n, 3, h, w), of a floating type and finite."""
    check_float(**images)
    for name, x in images.items():
        if x.ndim != 4 or x.shape[1] != 3:
            raise ValueError(f"{name} has shape {format_shape(x)}, wanted RGB images (n, 3, h, w)")


def lpips(prediction: Float[Tensor, "c 3 h w"], truth: Float[Tensor, "c 3 h w"]) -> float:
    """Learned perceptual distance (LPIPS) with AlexNet of images in [-1, 1], mean over images; 0 for equal images.

    OptionalDependencyError without torchmetrics, torchvision and the weights. Source: Zhang et al. 2018.
    """
    _check_rgb(prediction=prediction, truth=truth)
    check_shape("truth", truth, prediction.shape, prediction=prediction)
    metric = _torchmetric("lpip", "LearnedPerceptualImagePatchSimilarity", net_type="alex").to(truth.device)
    with torch.no_grad():
        return float(metric(prediction.float().clamp(-1, 1), truth.float()))


def fid_kid(fake: Float[Tensor, "n 3 h w"], real: Float[Tensor, "m 3 h w"]) -> tuple[float, float]:
    """FID and KID: Fréchet and kernel distance of the Inception features of two sets of images in [-1, 1].

    The FID falls as the sets grow: compare it for sets of one size only. OptionalDependencyError without torchmetrics,
    torch-fidelity and the weights. Sources: Heusel et al. 2017; Bińkowski et al. 2018.
    """
    _check_rgb(fake=fake, real=real)
    if min(len(fake), len(real)) < 3:
        raise ValueError(f"got {len(fake)} and {len(real)} images, wanted at least 3 in each set")
    subset_size = min(1000, len(fake) - 1, len(real) - 1)
    fid = _torchmetric("fid", "FrechetInceptionDistance", normalize=True).to(real.device)
    kid = _torchmetric("kid", "KernelInceptionDistance", normalize=True, subset_size=subset_size).to(real.device)
    for images, is_real in ((real, True), (fake, False)):
        for chunk in images.float().clamp(-1, 1).add(1).div(2).split(64):
            fid.update(chunk, real=is_real)
            kid.update(chunk, real=is_real)
    return float(fid.compute()), float(kid.compute()[0])
