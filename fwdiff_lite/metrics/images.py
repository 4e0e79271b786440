"""Images, and sets of images."""

import importlib
import math

import torch
from jaxtyping import Bool, Float
from skimage.metrics import structural_similarity
from torch import Tensor

from fwdiff_lite.metrics.checks import check_finite, check_samples, check_sets, mask_like, match, shape
from fwdiff_lite.metrics.scores import squared_error


def frechet_distance(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> float:
    """Squared distance of two sets as if they were normal: |mx - my|^2 + tr(Cx + Cy - 2 (Cx Cy)^(1/2)).

    In the features' units, squared; two halves of one set of n rows are about d / n times their variance apart, so
    state that beside it. With features of another network than Inception's it is no FID. Source: Heusel et al. 2017.
    """
    check_sets(x, y, least=2)
    x, y = x.double(), y.double()
    means, (a, b) = (z.mean(0) for z in (x, y)), (torch.cov(z.T).reshape(x.shape[1], -1) for z in (x, y))
    mx, my = means
    values, vectors = torch.linalg.eigh(a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    # the trace of (Cx Cy)^(1/2) is that of (Cx^(1/2) Cy Cx^(1/2))^(1/2), which is symmetric
    mixed = torch.linalg.eigvalsh(root @ b @ root).clamp(min=0).sqrt().sum()
    return float((mx - my).square().sum() + a.trace() + b.trace() - 2 * mixed)


def precision_recall(real: Float[Tensor, "n d"], fake: Float[Tensor, "m d"], k: int = 3) -> tuple[float, float]:
    """The share of fakes within the real set's manifold, and of real ones within the fakes' (precision, recall).

    A set's manifold is the union of balls around its points, each reaching to the k-th nearest other point.
    Source: Kynkäänniemi et al. 2019.
    """
    check_sets(real, fake, least=k + 1)

    def inside(points: Tensor, manifold: Tensor) -> float:
        # distances to a thousand points at a time, for memory; the nearest of a set's points is the point itself
        near = (torch.cdist(lot, manifold).topk(k + 1, largest=False).values for lot in manifold.split(1000))
        radii = torch.cat([distances[:, -1] for distances in near])
        within = [(torch.cdist(lot, manifold) <= radii).any(1) for lot in points.split(1000)]
        return float(torch.cat(within).double().mean())

    return inside(fake, real), inside(real, fake)


def psnr(
    prediction: Float[Tensor, "c *obs"],
    truth: Float[Tensor, "c *obs"],
    peak: float,
    mask: Bool[Tensor, "..."] | None = None,
) -> float:
    """Peak signal-to-noise ratio in dB of the squared error pooled over all scored elements and contexts.

    `peak` is the range of the data: 1 for [0, 1], 2 for [-1, 1]. A perfect posterior sample lies 3 dB BELOW
    the perfect mean. For an interval, bootstrap 10 log10(peak^2 / mean) over `squared_error`.
    """
    if peak <= 0:
        raise ValueError(f"got peak = {peak}, wanted the data's range, above 0")
    error = float(squared_error(prediction, truth, mask).mean())
    return 10 * math.log10(peak**2 / error) if error > 0 else math.inf


def best_of(samples: Float[Tensor, "c K *obs"], truth: Float[Tensor, "c *obs"]) -> Float[Tensor, "c *obs"]:
    """The sample of each context with the smallest squared error: always say which K it is the best of."""
    check_samples(samples, truth)
    error = (samples - truth[:, None]).reshape(*samples.shape[:2], -1).square().sum(-1)
    return samples[torch.arange(len(samples), device=samples.device), error.argmin(1)]


def ssim(
    prediction: Float[Tensor, "c channels h w"], truth: Float[Tensor, "c channels h w"], peak: float
) -> Float[Tensor, "c"]:
    """Structural similarity of each picture, Gaussian window of sigma 1.5 (11 x 11), mean over channels.

    `peak` is the range of the data. Pictures smaller than 11 x 11 are refused. Source: Wang et al. 2004.
    """
    check_finite(prediction=prediction, truth=truth)
    match("truth", truth, prediction.shape, f"prediction {shape(prediction)}")
    if prediction.ndim != 4 or min(prediction.shape[-2:]) < 11:
        raise ValueError(f"prediction has shape {shape(prediction)}, wanted (c, channels, h >= 11, w >= 11)")
    if peak <= 0:
        raise ValueError(f"got peak = {peak}, wanted the data's range, above 0")
    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    pairs = zip(prediction.double().cpu().numpy(), truth.double().cpu().numpy(), strict=True)
    values = [structural_similarity(p, t, data_range=peak, channel_axis=0, **window) for p, t in pairs]
    return torch.tensor(values)


def total_variation(images: Float[Tensor, "*batch h w"]) -> Float[Tensor, "*batch"]:
    """Mean absolute difference between neighbouring pixels, down and across; h = 1 is a one-row picture.

    Sharpness is total_variation(samples).mean() over that of real observations: 1 is right, below is blurred.
    """
    check_finite(images=images)
    if images.ndim < 2 or images.shape[-2] * images.shape[-1] < 2:
        raise ValueError(f"images has shape {shape(images)}, wanted (..., h, w) with two pixels or more")
    down, across = images.diff(dim=-2).abs(), images.diff(dim=-1).abs()
    pairs = down.shape[-2] * down.shape[-1] + across.shape[-2] * across.shape[-1]
    return (down.sum((-2, -1)) + across.sum((-2, -1))) / pairs


def variance_inside_outside(samples: Float[Tensor, "c K *obs"], mask: Bool[Tensor, "..."]) -> tuple[float, float]:
    """Pooled sample variance (unbiased) where `mask` is True, say what the context sees, and where it is not.

    `mask` broadcasts to (c, *obs).
    """
    check_samples(samples, least=2)
    variance = samples.var(1)
    inside, outside = mask_like(mask, variance), mask_like(~mask, variance)
    return float(variance[inside].mean()), float(variance[outside].mean())


class OptionalDependencyError(RuntimeError):
    """A measure that needs a package or weights which are not here and cannot be had."""


def _torchmetric(module: str, name: str, **options):
    """A measure of torchmetrics, which fetches its network's weights where it does not have them."""
    try:
        return getattr(importlib.import_module(f"torchmetrics.image.{module}"), name)(**options)
    except (ImportError, OSError, RuntimeError) as error:  # what is missing is a package, or the weights
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise OptionalDependencyError(
            f"{name} cannot be had ({reason}): pip install 'torchmetrics[image]', and let it fetch its weights once"
        ) from None


def lpips(prediction: Float[Tensor, "c 3 h w"], truth: Float[Tensor, "c 3 h w"]) -> float:
    """Learned perceptual distance of pictures in [-1, 1], by AlexNet, mean over them; 0 is the same. Zhang et al. 2018.

    Unavailable without torchmetrics, torchvision and weights.
    """
    check_finite(prediction=prediction, truth=truth)
    match("truth", truth, prediction.shape, f"prediction {shape(prediction)}")
    measure = _torchmetric("lpip", "LearnedPerceptualImagePatchSimilarity", net_type="alex").to(truth.device)
    with torch.no_grad():
        return float(measure(prediction.float().clamp(-1, 1), truth.float()))


def fid_kid(fake: Float[Tensor, "n 3 h w"], real: Float[Tensor, "m 3 h w"]) -> tuple[float, float]:
    """Fréchet and kernel distance of Inception's features of two sets of pictures in [-1, 1]: FID and KID.

    FID falls as sets grow: compare it at one size only. Heusel et al. 2017; Bińkowski et al. 2018. Unavailable without
    torchmetrics, torch-fidelity and weights.
    """
    check_finite(fake=fake, real=real)
    if min(len(fake), len(real)) < 3:
        raise ValueError(f"got {len(fake)} and {len(real)} pictures, wanted at least 3 in each set")
    subset = min(1000, len(fake) - 1, len(real) - 1)
    fid = _torchmetric("fid", "FrechetInceptionDistance", normalize=True).to(real.device)
    kid = _torchmetric("kid", "KernelInceptionDistance", normalize=True, subset_size=subset).to(real.device)
    for pictures, are_real in ((real, True), (fake, False)):
        for lot in pictures.float().clamp(-1, 1).add(1).div(2).split(64):
            fid.update(lot, real=are_real)
            kid.update(lot, real=are_real)
    return float(fid.compute()), float(kid.compute()[0])
