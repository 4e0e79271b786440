"""Measures of generated portraits, of the generator's own posterior, and of the sampler's finite steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fwdiff_lite import metrics
from fwdiff_lite.diffusion import ForwardDiffusion
from fwdiff_lite.observations import Observations
from fwdiff_lite.problems.gan_inversion import patches, portraits
from fwdiff_lite.schedule import CosineSchedule

MIN_IMAGES = 4  # of a set, for its precision and recall


def compare_with_portraits(
    fake: Float[Tensor, "n 3 64 64"],
    real: Float[Tensor, "n 3 64 64"],
    classifier: portraits.AttributeClassifier,
    max_images: int = 5000,
) -> dict[str, float]:
    """Generated images against rendered portraits: predicted attributes, and distances of the classifier's features.

    max_images: of each set, for precision and recall, whose cost is quadratic

    Returns, for each attribute, `apart_NAME`: the largest difference of a category's frequency. `worst` is the largest
    of them, `worst_binary` the largest of attributes with two categories. `frechet_floor` is the Fréchet distance
    between two halves of the real set.
    """
    with torch.no_grad():
        features = [torch.cat([classifier.features(chunk) for chunk in x.split(500)]).cpu() for x in (fake, real)]
    frequencies = [portraits.attribute_frequencies(classifier.predict(x).cpu()) for x in (fake, real)]
    differences = [(a - b).abs().max().item() for a, b in zip(*frequencies, strict=True)]
    is_binary = [len(categories) == 2 for categories in portraits.ATTRIBUTES.values()]
    precision, recall = metrics.precision_recall(features[1][:max_images], features[0][:max_images])
    half = len(real) // 2
    return {
        "worst": max(differences),
        "worst_binary": max(x for x, binary in zip(differences, is_binary, strict=True) if binary),
        **{f"apart_{name}": x for name, x in zip(portraits.ATTRIBUTE_NAMES, differences, strict=True)},
        "frechet": metrics.frechet_distance(features[0], features[1]),
        "frechet_floor": metrics.frechet_distance(features[1][:half], features[1][half:]),
        "precision": precision,
        "recall": recall,
    }


VISIBLE_CROPS = {  # (row, column, height, width) of the pixels that show an attribute
    "hat": (2, 8, 20, 48),
    "brows": (18, 16, 8, 32),
    "earrings": (34, 6, 10, 52),
    "mouth": (40, 20, 12, 24),
    "beard": (36, 18, 20, 28),
}


def nearest_labels(
    images: Float[Tensor, "n 3 64 64"],
    references: Float[Tensor, "m 3 64 64"],
    labels: Int[Tensor, "m"],
    crop: tuple[int, int, int, int],
    k: int = 5,
) -> Int[Tensor, "n"]:
    """The category that most of the k nearest references have; distances are between pixels of the crop.

    crop: see VISIBLE_CROPS; of two equally frequent categories, the lower index
    """
    row, column, height, width = crop

    def pixels(x: Float[Tensor, "b 3 64 64"]) -> Float[Tensor, "b _"]:
        return x[:, :, row : row + height, column : column + width].flatten(1)

    chunks = (torch.cdist(pixels(chunk), pixels(references)) for chunk in images.split(500))
    nearest = torch.cat([x.topk(min(k, len(references)), largest=False).indices for x in chunks])
    return nn.functional.one_hot(labels[nearest]).sum(1).argmax(1)


def compare_nearest_labels(
    fake: Float[Tensor, "n 3 64 64"],
    real: Float[Tensor, "m 3 64 64"],
    people: portraits.Portraits,
    references: Float[Tensor, "r 3 64 64"],
) -> dict[str, float]:
    """Attributes of generated images by `nearest_labels`, which no pattern deceives that a classifier alone sees.

    people, references: further portraits and their images

    Returns, for each attribute of VISIBLE_CROPS, `nearest_apart_NAME`: how much the frequency of its second category
    differs between generated and real images. `nearest_worst` is the largest of them.
    """
    apart = {}
    for name, crop in VISIBLE_CROPS.items():
        votes = [nearest_labels(x, references, people.attribute(name), crop) for x in (fake, real)]
        frequencies = [(x == 1).double().mean() for x in votes]
        apart[f"nearest_apart_{name}"] = abs(float(frequencies[0] - frequencies[1]))
    return apart | {"nearest_worst": max(apart.values())}


class ReferencePosterior(NamedTuple):
    """The generator's own posterior for each context, which importance weights of a reference set estimate.

    probabilities: for each attribute, the probabilities of its categories
    tolerance: s of `patches.importance_weights`; effective_size: of the weights
    """

    probabilities: list[Float[Tensor, "b _"]]
    tolerance: Float[Tensor, "b"]
    effective_size: Float[Tensor, "b"]


def reference_posterior(
    distances: Float[Tensor, "b n"], reference_labels: Int[Tensor, "n a"], min_effective_size: float
) -> ReferencePosterior:
    """The posterior from `patches.reference_distances` and the attributes of the reference images."""
    weights, tolerance, effective_size = patches.importance_weights(distances, min_effective_size)
    one_hots = [
        nn.functional.one_hot(labels, len(categories)).double()
        for labels, categories in zip(reference_labels.T, portraits.ATTRIBUTES.values(), strict=True)
    ]
    return ReferencePosterior([weights @ x for x in one_hots], tolerance, effective_size)


def _total_variation(p: list[Float[Tensor, "b _"]], q: list[Float[Tensor, "b _"]]) -> float:
    """Total variation, as a mean over contexts and attributes."""
    return float(torch.stack([(x - y.to(x)).abs().sum(1) / 2 for x, y in zip(p, q, strict=True)]).mean())


def _log_loss(p: list[Float[Tensor, "b _"]], labels: Int[Tensor, "b a"]) -> float:
    """The log loss of the true labels in nats, as a mean over contexts and attributes."""
    chosen = [x.gather(1, y[:, None].to(x.device))[:, 0] for x, y in zip(p, labels.T, strict=True)]
    return float(-torch.stack(chosen).clamp(min=1e-6).log().mean())


def check_reference_set(size: int, min_effective_size: float) -> None:
    """ValueError if a quarter of so many reference images cannot have this effective size."""
    if size // 4 <= min_effective_size:
        wanted = f"at least {4 * (math.floor(min_effective_size) + 1)}, so that a quarter has more than"
        raise ValueError(
            f"a reference set of {size} images was given: wanted {wanted} the effective size of {min_effective_size:g}"
        )


def reference_agreement(
    distances: Float[Tensor, "b n"],
    reference_labels: Int[Tensor, "n a"],
    labels: Int[Tensor, "b a"],
    sample_labels: Int[Tensor, "b k a"],
    min_effective_size: float = 500,
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Attributes of samples against the generator's posterior, and whether the reference set is large enough.

    distances: from `patches.reference_distances`; labels: the attributes of the images whose contexts these are

    Total variation stands between the posterior of the whole set and the samples (`bank_tv`), as many exact draws from
    that posterior (`bank_tv_chance`), and the posterior of a quarter of the set (`bank_tv_quarter`); and between the
    posteriors of two halves (`bank_tv_halves`). Beside them are the smallest effective size, the median tolerance of
    the weights, and the log loss of the true attributes, of the whole set and of a quarter.

    The second result is a convergence curve: for sizes that double up to the whole set, the total variation to the
    posterior of the whole set, the log loss, and the median tolerance.

    ValueError if a quarter of the set has no effective size of `min_effective_size`.
    """
    size, generator = distances.shape[1], torch.Generator().manual_seed(0)
    check_reference_set(size, min_effective_size)

    def estimate(first: int, end: int) -> ReferencePosterior:
        return reference_posterior(distances[:, first:end], reference_labels[first:end], min_effective_size)

    full, halves = estimate(0, size), [estimate(0, size // 2), estimate(size // 2, 2 * (size // 2))]
    k = sample_labels.shape[1]
    frequencies, draws = [], []
    for p, column in zip(full.probabilities, sample_labels.unbind(2), strict=True):
        exact = torch.multinomial(p.cpu(), k, replacement=True, generator=generator)
        frequencies.append(metrics.label_frequencies(column, p.shape[1]))
        draws.append(metrics.label_frequencies(exact, p.shape[1]))
    sizes = [n for n in (size >> i for i in range(20)) if n > 2 * min_effective_size][::-1]
    parts = {n: full if n == size else estimate(0, n) for n in sizes}
    curve = {
        "bank_curve_size": sizes,
        "bank_curve_tv": [_total_variation(full.probabilities, x.probabilities) for x in parts.values()],
        "bank_curve_log_loss": [_log_loss(x.probabilities, labels) for x in parts.values()],
        "bank_curve_tolerance": [float(x.tolerance.median()) for x in parts.values()],
    }
    quarter = estimate(0, size // 4)
    numbers = {
        "bank_tv": _total_variation(full.probabilities, frequencies),
        "bank_tv_chance": _total_variation(full.probabilities, draws),
        "bank_tv_halves": _total_variation(*(x.probabilities for x in halves)),
        "bank_tv_quarter": _total_variation(full.probabilities, quarter.probabilities),
        "bank_least_size": float(min(x.effective_size.min() for x in (full, *halves))),
        "bank_tolerance": float(full.tolerance.median()),
        "bank_log_loss": _log_loss(full.probabilities, labels),
        "bank_log_loss_quarter": _log_loss(quarter.probabilities, labels),
    }
    return numbers, curve


class AttributeResponse(NamedTuple):
    """How a denoiser's prediction shows an attribute, beside Bayes' rule; see `attribute_response`."""

    response: Float[Tensor, "r"]
    exact_response: Float[Tensor, "r"]
    spread: Float[Tensor, "r"]
    exact_spread: Float[Tensor, "r"]


@torch.no_grad()
def attribute_response(
    model: ForwardDiffusion,
    context: Observations,
    people: portraits.Portraits,
    name: str,
    crop: tuple[int, int, int],
    probability: Float[Tensor, "c"],
    ratios: Sequence[float],
    generator: torch.Generator,
) -> AttributeResponse:
    """Whether a denoiser sees a binary attribute in a noisy target, and how sure it is without.

    Each portrait is rendered without the attribute (x_0) and with it (x_1). The target is the crop of either image
    with the same noise, at each alpha / sigma of `ratios`. In the predicted image x, the attribute's contrast is
    <x - x_0, x_1 - x_0> / |x_1 - x_0|^2 inside of the crop: 0 without the attribute, 1 with it, and its probability
    where it is unknown. `response` is the mean difference of that contrast between the two targets, `spread` the
    standard deviation over contexts of its mean over the two. The exact values follow from Bayes' rule, if all else in
    the crop is known.

    context: hides the attribute; crop: (row, column, size); probability: of the attribute given each context
    """
    device, schedule, count = context.value.device, model.schedule, len(people)
    without, having = (portraits.render(people.with_attribute(name, k)) for k in (0, 1))
    params = torch.tensor([[crop]], dtype=torch.float32, device=device).expand(count, -1, -1)
    mask = patches.patch_mask(params[:, 0], without.shape[-1])
    difference = (having - without) * mask
    squared_norm = difference.square().flatten(1).sum(1).clamp(min=1e-6)
    condition, rows = model.denoiser.condition(context, params), []
    logit = torch.logit(probability.to(squared_norm), 1e-6)
    for ratio in ratios:
        t = schedule.time_of_ratio(ratio)
        alpha, sigma = (float(f(torch.tensor(t, dtype=torch.float64))) for f in (schedule.alpha, schedule.sigma))
        noise = torch.randn(without.shape, generator=generator).to(device)
        projection = (noise * difference).flatten(1).sum(1)
        contrasts, exact = [], []
        for image, sign in ((without, -1), (having, 1)):
            noisy = ((alpha * image + sigma * noise) * mask)[:, None]
            signal = model.denoiser(condition, noisy, torch.full((count,), t, device=device))
            predicted = model.forward_model(signal, params)[:, 0]
            contrasts.append(((predicted - without) * difference).flatten(1).sum(1) / squared_norm)
            exact.append(torch.sigmoid(logit + ratio * projection + sign * ratio**2 * squared_norm / 2))
        pairs = [torch.stack(x) for x in (contrasts, exact)]
        rows.append([f(x) for f in (lambda x: (x[1] - x[0]).mean(), lambda x: x.mean(0).std()) for x in pairs])
    return AttributeResponse(*torch.tensor([[float(x) for x in row] for row in rows]).T)


def sampler_discretization_error(
    people: portraits.Portraits,
    schedule: CosineSchedule,
    n: int = 1000,
    steps: int = 32,
    eta: float = 1.0,
) -> dict[str, float]:
    """The error of sampling in finite steps alone: the denoiser is exact, for images from a reference set of portraits.

    n central crops are sampled without context, so each reference image should be equally likely.

    Returns `spread`, the standard deviation of the samples over that of the reference set, and `tv`, the total
    variation between their attribute frequencies, for the worst attribute.
    """
    references = portraits.render(people)
    denoiser = patches.ReferenceSetDenoiser(references, schedule)
    model = ForwardDiffusion(denoiser, patches.ReferenceSet(references), schedule)
    centre = torch.tensor([[[16.0, 16.0, 32.0]]], device=references.device).expand(n, -1, -1)
    empty_context = patches.observe(references[:1].expand(n, -1, -1, -1), centre)
    empty_context = empty_context.mask_out(torch.ones_like(empty_context.mask))
    generator = torch.Generator().manual_seed(0)
    step = model.sample(empty_context, centre, steps=steps, eta=eta, generator=generator, allow_empty=True)
    mask = patches.patch_mask(centre[:1, 0], references.shape[-1])
    spreads = [(x * mask).var(0).sum().sqrt() for x in (step.observation[:, 0], references)]
    attributes = people.attributes[step.signal.argmax(1)], people.attributes
    frequencies = [portraits.attribute_frequencies(x) for x in attributes]
    total_variations = [(a - b).abs().sum() / 2 for a, b in zip(*frequencies, strict=True)]
    return {"spread": float(spreads[0] / spreads[1]), "tv": float(max(total_variations))}
