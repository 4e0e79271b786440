"""Measures of generated portraits, of the generator's own posterior, and of the sampler's finite steps."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fwdiff_lite import metrics
from fwdiff_lite.diffusion import ForwardDiffusion
from fwdiff_lite.observations import Observations
from fwdiff_lite.problems.gan_inversion import patches, portraits
from fwdiff_lite.schedule import CosineSchedule


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


def reference_agreement(
    context: Observations,
    sample_labels: Int[Tensor, "c k a"],
    references: Float[Tensor, "n 3 h h"],
    reference_labels: Int[Tensor, "n a"],
) -> dict[str, float]:
    """Attributes of samples against the generator's posterior, which importance weights of a reference set estimate.

    Total variation of each attribute, as a mean over contexts and attributes (`bank_tv`). Beside it stand the value of
    one half of the reference set against the other (`bank_tv_halves`), and that of K exact draws from the estimated
    posterior (`bank_tv_chance`). `bank_least_size` is the smallest effective sample size.
    """
    distances = patches.reference_distances(references, context)
    weights, _, effective_sizes = patches.importance_weights(distances)
    half = len(references) // 2
    half_weights = [patches.importance_weights(part)[0] for part in (distances[:, :half], distances[:, half:])]
    distances_by_name: dict[str, list[Tensor]] = {"bank_tv": [], "bank_tv_halves": [], "bank_tv_chance": []}
    generator = torch.Generator().manual_seed(0)
    for i, categories in enumerate(portraits.ATTRIBUTES.values()):
        one_hot = nn.functional.one_hot(reference_labels[:, i], len(categories)).double()
        p = weights @ one_hot
        p_halves = [w @ x for w, x in zip(half_weights, (one_hot[:half], one_hot[half:]), strict=True)]
        k = sample_labels.shape[1]
        exact_draws = torch.multinomial(p.cpu(), k, replacement=True, generator=generator).to(p.device)
        sample_frequencies, draw_frequencies = (
            metrics.label_frequencies(labels, len(categories)) for labels in (sample_labels[:, :, i], exact_draws)
        )
        pairs = (sample_frequencies, p), p_halves, (draw_frequencies, p)
        for values, (a, b) in zip(distances_by_name.values(), pairs, strict=True):
            values.append((a.to(p) - b).abs().sum(1) / 2)
    numbers = {name: float(torch.stack(values).mean()) for name, values in distances_by_name.items()}
    return numbers | {"bank_least_size": float(effective_sizes.min())}


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
