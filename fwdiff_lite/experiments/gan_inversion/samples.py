"""The test set of 04_gan_inversion, samples for it, and their measures."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fwdiff_lite import metrics
from fwdiff_lite.diffusion import ForwardDiffusion, ForwardRegression
from fwdiff_lite.observations import Observations
from fwdiff_lite.problems.gan_inversion import patches, portrait_posterior, portraits

NUM_SAMPLES = 16  # of each image of the test set
MIN_HIDDEN = 100  # test images whose context hides an attribute, for it to be evaluated


@dataclass(frozen=True)
class TestSet:
    """C held-out images, each with a context patch, targets that cover the image, and a patch for the energy score.

    context: one patch of each image
    target_params: the centre first, then the quadrants in random order. Quadrants alone would cut both eyes, and each
        would be sampled by itself
    held_out_params: the crop of the energy score
    observed: which attributes the context tells: one category alone is possible. None where attributes are unknown
    probabilities: for each attribute, the true probabilities of its categories given the context
    """

    images: Float[Tensor, "c 3 h h"]
    context: Observations
    target_params: Float[Tensor, "c 5 3"]
    held_out_params: Float[Tensor, "c 1 3"]
    observed: Bool[Tensor, "c a"] | None = None
    probabilities: dict[str, Float[Tensor, "c k"]] = field(default_factory=dict)

    def first(self, n: int) -> TestSet:
        """The test set of the first n images."""
        return TestSet(
            self.images[:n],
            self.context[:n],
            self.target_params[:n],
            self.held_out_params[:n],
            None if self.observed is None else self.observed[:n],
            {name: p[:n] for name, p in self.probabilities.items()},
        )


def make_test_set(images: Float[Tensor, "c 3 h h"], seed: int = 2026) -> TestSet:
    """Crops of given images, whose attributes are unknown."""
    (c, _, side, _), generator = images.shape, torch.Generator().manual_seed(seed)
    context_sizes, target_sizes = (patches.crop_sizes(x, side) for x in (patches.CONTEXT_SIZES, patches.TARGET_SIZES))
    context_params = patches.sample_crops(c, 1, generator, context_sizes, side)
    held_out_params = patches.sample_crops(c, 1, generator, target_sizes, side)
    corners = torch.cartesian_prod(*2 * (torch.tensor([0.0, side // 2]),))
    quadrants = torch.cat([corners, torch.full((4, 1), side / 2)], 1)[torch.rand(c, 4, generator=generator).argsort(1)]
    centre = torch.tensor([side / 4, side / 4, side / 2]).expand(c, 1, 3)
    target_params = torch.cat([centre, quadrants], 1)
    return TestSet(images, patches.observe(images, context_params), target_params, held_out_params)


def held_out_portraits(count: int = 256, seed: int = 2026) -> portraits.Portraits:
    """Portraits that are in no training set."""
    return portraits.sample_portraits(count, torch.Generator().manual_seed(seed))


def context_masks(test_set: TestSet) -> Bool[Tensor, "c h h"]:
    """True inside of each context's crop."""
    return patches.patch_mask(test_set.context.params[:, 0], test_set.images.shape[-1])[:, 0] > 0


def make_portrait_test_set(
    people: portraits.Portraits, seed: int = 2026, device: torch.device | str = "cpu", side: int = 64
) -> TestSet:
    """Images and crops of portraits, with the true probabilities of their attributes given the context.

    device: renders the portraits with other attributes; the test set is on the CPU
    side: of the images, in pixels
    """
    test_set = make_test_set(portraits.render(people, side), seed)
    possible = portrait_posterior.possible_categories(people.to(device), context_masks(test_set).to(device), side)
    possible = {name: mask.cpu() for name, mask in possible.items()}
    probabilities = portrait_posterior.posterior_probabilities(possible)
    return replace(test_set, observed=portrait_posterior.observed_attributes(possible), probabilities=probabilities)


# --- samples and their measures ---------------------------------------------------------------------------------------


def sample_posterior(
    model: ForwardDiffusion,
    test_set: TestSet,
    num_samples: int = NUM_SAMPLES,
    steps: int = 32,
    eta: float = 0.0,
    seed: int = 0,
    chunk_size: int = 256,
    num_targets: int = 5,
    temperature: float = 1.0,
) -> Float[Tensor, "c k 3 h h"]:
    """Whole images: for each context, k latent codes from autoregressive sampling of its first `num_targets` targets.

    A ForwardRegression makes one prediction (k = 1), for the crop of the energy score. Samples are drawn on the model's
    device, `chunk_size` at a time; the result is on the test set's device.
    """
    forward_model, chunks, device = model.forward_model, [], next(model.parameters()).device
    deterministic = isinstance(model, ForwardRegression)
    num_samples = 1 if deterministic else num_samples
    generator, contexts = torch.Generator().manual_seed(seed), test_set.context.repeat(num_samples)
    target_params = test_set.held_out_params if deterministic else test_set.target_params[:, :num_targets]
    target_params = target_params.repeat_interleave(num_samples, 0)
    options = {"steps": steps, "eta": eta, "generator": generator, "temperature": temperature}
    for rows in torch.arange(len(contexts)).split(chunk_size):
        inputs = contexts[rows].to(device), target_params[rows].to(device)
        step = model.sample(*inputs) if deterministic else model.sample_autoregressive(*inputs, **options)[0]
        with torch.no_grad():
            chunks.append(forward_model.render(step.signal).to(test_set.images.device))
    return torch.cat(chunks).unflatten(0, (-1, num_samples))


def evaluate_images(
    test_set: TestSet,
    samples: Float[Tensor, "c k 3 h h"],
    prediction: Float[Tensor, "c 1 3 h h"],
    generator: torch.Generator,
) -> dict[str, float]:
    """The measures that need no attributes: of samples, and of the deterministic prediction beside them."""
    side, numbers = test_set.images.shape[-1], {}
    context_mask = patches.patch_mask(test_set.context.params[:, 0], side).expand_as(test_set.images) > 0
    held_out_mask = patches.patch_mask(test_set.held_out_params[:, 0], side).expand_as(test_set.images) > 0
    unobserved_mask = held_out_mask & ~context_mask
    numbers["patch_psnr"] = metrics.psnr(samples[:, 0], test_set.images, 2, context_mask)
    numbers["patch_psnr_deterministic"] = metrics.psnr(prediction[:, 0], test_set.images, 2, context_mask)
    variance_inside, variance_outside = metrics.variance_inside_outside(samples, context_mask)
    # a few exact draws may all be equal inside of the context
    variance_ratio = variance_outside / variance_inside if variance_inside else math.inf
    numbers["diversity_outside_over_inside"] = variance_ratio**0.5
    truth = test_set.images * unobserved_mask  # pixels without a score are 0 in truth, samples and prediction
    sample_scores = metrics.energy_score(samples * unobserved_mask[:, None], truth)
    prediction_scores = metrics.euclidean_error(prediction[:, 0] * unobserved_mask, truth)
    numbers |= metrics.energy_ratio(sample_scores, prediction_scores, generator).as_metrics("energy_ratio")
    numbers |= metrics.spread_skill(samples, test_set.images, generator, unobserved_mask).as_metrics("spread_skill")
    return {name: float(value) for name, value in numbers.items()}


def evaluate_labels(
    test_set: TestSet, sample_labels: Int[Tensor, "c k a"], generator: torch.Generator
) -> dict[str, float]:
    """The measures of hidden attributes; sample_labels: from `predict_labels`.

    An attribute is evaluated on the test images whose context does not tell it, if there are at least MIN_HIDDEN of
    them. `factor_tv`, its upper end `factor_tv_high`, and `agree_excess` are the largest values of all attributes: an
    average would let one attribute hide another. `factor_scene_rms` is a mean over attributes. With one sample of each
    image, `factor_tv` alone is measured.
    """
    measures = {"factor_tv": metrics.factor_tv}
    if sample_labels.shape[1] > 1:
        measures["factor_scene_rms"] = metrics.per_context_calibration_rms
        measures["agree_excess"] = metrics.agreement_excess
    numbers, names = {}, []
    for i, (name, probabilities) in enumerate(test_set.probabilities.items()):
        hidden = ~test_set.observed[:, i]
        if hidden.sum() < MIN_HIDDEN:
            continue
        names.append(name)
        for key, measure in measures.items():
            interval = measure(sample_labels[hidden, :, i], probabilities[hidden], generator)
            numbers |= interval.as_metrics(f"{key}_{name}")
    if names:
        values = {key: [numbers[f"{key}_{name}"] for name in names] for key in measures}
        numbers["factor_tv"] = max(values["factor_tv"])
        numbers["factor_tv_high"] = max(numbers[f"factor_tv_{name}_high"] for name in names)
        if len(measures) > 1:
            numbers["factor_scene_rms"] = sum(values["factor_scene_rms"]) / len(names)
            numbers["agree_excess"] = max(values["agree_excess"], key=abs)
    return {name: float(value) for name, value in numbers.items()}


def evaluate_samples(
    test_set: TestSet,
    samples: Float[Tensor, "c k 3 h h"],
    prediction: Float[Tensor, "c 1 3 h h"],
    sample_labels: Int[Tensor, "c k a"],
    prediction_labels: Int[Tensor, "c 1 a"],
    seed: int = 0,
) -> dict[str, float]:
    """All measures of samples, and of the deterministic prediction beside them, named as in metrics.json.

    sample_labels, prediction_labels: from `predict_labels`
    """
    generator = torch.Generator().manual_seed(seed)
    numbers = evaluate_images(test_set, samples, prediction, generator)
    numbers |= evaluate_labels(test_set, sample_labels, generator)
    baseline = evaluate_labels(test_set, prediction_labels, generator)
    return numbers | {f"deterministic_{name}": value for name, value in baseline.items()}


def predict_labels(
    classifier: portraits.AttributeClassifier, samples: Float[Tensor, "c k 3 64 64"]
) -> Int[Tensor, "c k a"]:
    """The attributes of samples, predicted on the classifier's device; the result is on the samples' device."""
    images = samples.flatten(0, 1).to(next(classifier.parameters()).device)
    return classifier.predict(images).unflatten(0, samples.shape[:2]).to(samples.device)
