"""The experiment of 04_gan_inversion: assets, variants, test set, measures.

    python -m fwdiff_lite.experiments gan_inversion train auxiliary_classifiers --steps 500
    python -m fwdiff_lite.experiments gan_inversion train generator --minutes 23.5 --portraits 524288
    python -m fwdiff_lite.experiments gan_inversion train classifier --steps 1500
    python -m fwdiff_lite.experiments gan_inversion train wplus deterministic --minutes 21 --portraits 1048576
    python -m fwdiff_lite.experiments gan_inversion evaluate
    python -m fwdiff_lite.experiments gan_inversion export wplus generator classifier

The asset `generator` is a StyleGAN2 of cartoon portraits. Several attribute classifiers are trained, each from its own
seed. The `auxiliary_classifiers` give the generator's auxiliary loss, which matches the frequencies of attributes. The
`classifier` is none of them and is used for evaluation alone. Each variant inverts the generator.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fwdiff_lite import metrics
from fwdiff_lite.colours import to_uint8
from fwdiff_lite.command_line import positive_int
from fwdiff_lite.experiments.declaration import Evaluation, Experiment, Results
from fwdiff_lite.experiments.gan_inversion.samples import (
    NUM_SAMPLES,
    TestSet,
    context_masks,
    evaluate_labels,
    evaluate_samples,
    held_out_portraits,
    make_portrait_test_set,
    make_test_set,
    predict_labels,
    sample_posterior,
)
from fwdiff_lite.experiments.gan_inversion.variants import (
    GENERATOR,
    NUM_PORTRAITS,
    RESULTS_NAME,
    SWEEP,
    make_assets,
    make_variants,
)
from fwdiff_lite.experiments.harness import Session
from fwdiff_lite.experiments.measurements import add_setting
from fwdiff_lite.observations import Observations
from fwdiff_lite.problems.gan_inversion import measures, patches, portrait_posterior, portraits, stylegan2
from fwdiff_lite.schedule import ShiftedCosineSchedule

NUM_EXAMPLES = 4  # images of the test set whose samples are recorded
NUM_REPRODUCED = 4  # images of the test set that the notebook samples again on a CPU
SCHEDULE_SCALES = [2.0**-i for i in range(6)]  # of ShiftedCosineSchedule, compared with an exact denoiser
TEMPERATURE = 1.3  # of ancestral sampling: the denoiser makes too little of a noisy target; see evaluate_temperatures


class Sampler(NamedTuple):
    """How a variant is sampled: eta, the number of targets sampled one after another, and the temperature."""

    variant: str
    eta: float = 1.0
    num_targets: int = 5
    temperature: float = 1.0


SAMPLERS = {  # in the evaluation; the main one first
    "wplus_eta_1": Sampler("wplus", temperature=TEMPERATURE),
    "wplus_eta_1_plain": Sampler("wplus"),
    "wplus_eta_0": Sampler("wplus", eta=0.0),
    "wplus_eta_1_one": Sampler("wplus", num_targets=1, temperature=TEMPERATURE),
    "wplus_faint_eta_1": Sampler("wplus_faint", temperature=TEMPERATURE),
    "w_eta_1": Sampler("w", temperature=TEMPERATURE),
}
MAIN_SAMPLER = next(iter(SAMPLERS))
OPTIMISED = {"optimised": "w", "optimised_wplus": "w+"}  # the space of the latent codes
RESPONSE_CROPS = {  # (row, column, size) of a target that shows the attribute
    "hat": (0, 16, 32),
    "brows": (12, 16, 32),
    "glasses": (16, 16, 32),
    "earrings": (24, 4, 32),
    "beard": (30, 16, 32),
    "mouth": (30, 16, 32),
}
RESPONSE_RATIOS = (3.0, 0.001)  # alpha / sigma of an almost clean target, and of one that is almost pure noise
TEMPERATURES = (1.0, 1.15, 1.3, 1.45, 1.6)  # of the sampler, compared on validation portraits
VALIDATION_SEED = 2025

# --- evaluations ------------------------------------------------------------------------------------------------------


def count_of_part(total: int, divisor: int) -> int:
    """How many images make up that part of a set, such as a quarter; at least two, since intervals resample them."""
    return max(2, total // divisor)


def render_people(session: Session, seed: int) -> tuple[portraits.Portraits, Float[Tensor, "n 3 64 64"]]:
    """Portraits and their images, as many as the options say, on the device."""
    people = portraits.sample_portraits(session.options["images"], torch.Generator().manual_seed(seed))
    people = people.to(session.device)
    return people, torch.cat([portraits.render(people[rows]) for rows in torch.arange(len(people)).split(500)])


def evaluate_classifier(session: Session) -> Results:
    """The accuracy of the classifier on rendered portraits, for each attribute."""
    people, images = render_people(session, 2026)
    accuracy = (session.model("classifier").predict(images) == people.attributes).double().mean(0)
    return Results(dict(zip(portraits.ATTRIBUTE_NAMES, accuracy.tolist(), strict=True)), {})


def evaluate_generator(name: str, session: Session) -> Results:
    """Images of one of the generators against rendered portraits."""
    generator = torch.Generator().manual_seed(2)
    fake = stylegan2.generate_images(session.model(name), session.options["images"], generator)
    _, real = render_people(session, 3)
    numbers = measures.compare_with_portraits(fake, real, session.model("classifier"))
    return Results(numbers | measures.compare_nearest_labels(fake, real, *render_people(session, 4)), {})


def evaluate_deterministic(session: Session) -> Results:
    """The deterministic predictions; beside them the observed attributes and the true probabilities of the others."""
    test_set, prediction = session.test_set, session.predict("deterministic")
    labels = predict_labels(session.model("classifier"), prediction)
    arrays = {f"odds_{name}": p.float().numpy() for name, p in test_set.probabilities.items()}
    arrays |= {"deterministic": to_uint8(prediction[:NUM_EXAMPLES]), "deterministic_labels": labels.byte().numpy()}
    return Results({}, arrays | {"given": test_set.observed.numpy()})


def draw_samples(session: Session, sampler: str, test_set: TestSet, num_samples: int) -> Float[Tensor, "c k 3 h h"]:
    """Samples of one of SAMPLERS for the contexts of a test set."""
    variant, *options = SAMPLERS[sampler]
    names = ("eta", "num_targets", "temperature")
    options = dict(zip(names, options, strict=True)) | {"steps": session.options["steps"]}
    return sample_posterior(session.model(variant), test_set, num_samples, **options)


def evaluate_sampler(name: str, session: Session) -> Results:
    """The measures of one of SAMPLERS; of the main one also samples of the first images, drawn by themselves."""
    start_time = time.monotonic()
    samples = draw_samples(session, name, session.test_set, session.options["samples"])
    results = measure(name, session, samples, time.monotonic() - start_time)
    if name == MAIN_SAMPLER:
        results.arrays["live"] = to_uint8(draw_samples(session, name, session.test_set.first(NUM_REPRODUCED), 2))
    return results


def optimise_images(
    forward_model: patches.CroppedGenerator,
    context: Observations,
    initial_latents: Float[Tensor, "b *l d"],
    scale: Float[Tensor, "*l d"],
) -> Float[Tensor, "b 3 h h"]:
    """The images, on the CPU, of latent codes that are optimised for a context; see patches.optimise_latents."""
    latents = patches.optimise_latents(forward_model, context, initial_latents, scale=scale)
    with torch.no_grad():
        return forward_model.render(latents).cpu()


def evaluate_optimisation(name: str, session: Session) -> Results:
    """The measures of latent codes that were optimised from random ones in W, for a quarter of the test set."""
    start_time, num_samples, space = time.monotonic(), session.options["samples"], OPTIMISED[name]
    forward_model = patches.CroppedGenerator(session.model("generator"))
    subset = session.test_set.first(count_of_part(session.options["portraits"], 4))
    contexts, images = subset.context.repeat(num_samples), []
    initial_latents = patches.sample_w(forward_model.G, len(contexts), torch.Generator().manual_seed(6))
    if space == "w+":  # the same start: one style for all layers
        initial_latents = initial_latents[:, None].repeat(1, forward_model.G.synthesis.num_layers, 1)
    for rows in torch.arange(len(contexts)).split(1024):
        chunk = initial_latents[rows.to(initial_latents.device)]
        context = contexts[rows].to(session.device)
        images.append(optimise_images(forward_model, context, chunk, initial_latents.std(0)))
    samples = torch.cat(images).unflatten(0, (-1, num_samples))
    return measure(name, session, samples, time.monotonic() - start_time)


def draw_true_posterior(session: Session) -> tuple[Float[Tensor, "c k 3 h h"], float]:
    """Draws from the true posterior of each context of the test set, and the share of draws that fit their context."""
    num_samples, people = session.options["samples"], held_out_portraits(session.options["portraits"])
    masks, generator = context_masks(session.test_set).to(session.device), torch.Generator().manual_seed(9)
    draws, fits = portrait_posterior.sample_posterior(people.to(session.device), masks, num_samples, generator)
    images = [portraits.render(draws[rows]).cpu() for rows in torch.arange(len(draws)).split(500)]
    return torch.cat(images).unflatten(0, (-1, num_samples)), float(fits.float().mean())


def evaluate_true_draws(session: Session) -> Results:
    """The measures of draws from the true posterior: what a perfect sampler of portraits gets."""
    start_time = time.monotonic()
    samples, share_that_fits = draw_true_posterior(session)
    results = measure("true_draws", session, samples, time.monotonic() - start_time)
    return Results(results.numbers | {"share_that_fits": share_that_fits}, results.arrays)


def evaluate_inverted_true_draws(session: Session) -> Results:
    """The measures of the generator's images near to draws from the true posterior: the ceiling of any denoiser.

    For each draw, the main variant predicts a code in W+ from the whole image, and optimisation brings the code's image
    nearer to the draw. A start from the mean of W does not find glasses. `image_psnr` is a lower bound of what the
    generator can show: the optimiser's own error is in it, too.
    """
    start_time, (draws, _) = time.monotonic(), draw_true_posterior(session)
    model, images = session.model(SAMPLERS[MAIN_SAMPLER].variant), []
    forward_model, scale = model.forward_model, model.denoiser.w_std.expand(model.denoiser.signal_shape)
    quadrants = session.test_set.target_params[:1, 1:].to(session.device)
    full_crop = torch.tensor([[[0, 0, forward_model.side]]], dtype=torch.float32, device=session.device)
    for chunk in draws.flatten(0, 1).split(1024):
        chunk = chunk.to(session.device)
        context, target = (patches.observe(chunk, x.expand(len(chunk), -1, -1)) for x in (quadrants, full_crop))
        with torch.no_grad():
            predicted = model.denoiser.condition(context, target.params).deterministic_signal
        images.append(optimise_images(forward_model, target, predicted, scale))
    samples = torch.cat(images).unflatten(0, draws.shape[:2])
    results = measure("inverted_true_draws", session, samples, time.monotonic() - start_time)
    return Results(results.numbers | {"image_psnr": metrics.psnr(samples, draws, 2)}, results.arrays)


def measure(name: str, session: Session, samples: Float[Tensor, "c k 3 h h"], seconds: float) -> Results:
    """The measures of samples for the first images of the test set, their labels, and examples. seconds: of sampling"""
    n, classifier = len(samples), session.model("classifier")
    prediction = session.predict("deterministic")[:n]
    labels, prediction_labels = (predict_labels(classifier, images) for images in (samples, prediction))
    numbers = evaluate_samples(session.test_set.first(n), samples, prediction, labels, prediction_labels)
    numbers["seconds_a_sample"] = seconds / labels[..., 0].numel()
    return Results(numbers, {name: to_uint8(samples[:NUM_EXAMPLES, :2]), f"{name}_labels": labels.byte().numpy()})


def evaluate_reference_set(session: Session) -> Results:
    """The main sampler's samples for generated images, against the generator's posterior. Both are of W+."""
    G, classifier, options = session.model("generator"), session.model("classifier"), session.options
    measures.check_reference_set(options["references"], options["effective_size"])  # before samples take minutes

    def generate(count: int, seed: int) -> Float[Tensor, "n 3 h h"]:
        generator = torch.Generator().manual_seed(seed)
        styles = patches.sample_wplus(G, count, generator, GENERATOR.trainer.mixing_probability)
        with torch.no_grad():
            return torch.cat([G.synthesis(chunk) for chunk in styles.split(250)])

    images, references = generate(count_of_part(options["portraits"], 4), 4), generate(options["references"], 5)
    test_set = make_test_set(images.cpu())
    sample_labels = predict_labels(classifier, draw_samples(session, MAIN_SAMPLER, test_set, 4 * options["samples"]))
    distances = patches.reference_distances(references, test_set.context.to(session.device))
    numbers, curve = measures.reference_agreement(
        distances, classifier.predict(references), classifier.predict(images), sample_labels, options["effective_size"]
    )
    return Results(numbers, {key: np.array(values) for key, values in curve.items()})


def evaluate_recipe(name: str, session: Session) -> Results:
    """What tells recipes of a variant apart, without a baseline: responses to attributes, and measures of samples.

    `response_NAME`: to an attribute that is almost clean in the target; `spread_NAME`: of the attribute's contrast over
    contexts that hide it, at almost pure noise. Beside both stand the exact values (`exact_`). Attributes
    without a crop in RESPONSE_CROPS, or that fewer than two contexts hide, are left out.
    """
    model, test_set, options = session.model(name), session.test_set, session.options
    people, numbers = held_out_portraits(options["portraits"]), {}
    for i, attribute in enumerate(portraits.ATTRIBUTE_NAMES):
        rows = (~test_set.observed[:, i]).nonzero()[:, 0]
        if attribute not in RESPONSE_CROPS or len(rows) < 2:
            continue
        response = measures.attribute_response(
            model,
            test_set.context[rows].to(session.device),
            people[rows].to(session.device),
            attribute,
            RESPONSE_CROPS[attribute],
            test_set.probabilities[attribute][rows, 1].to(session.device),
            RESPONSE_RATIOS,
            torch.Generator().manual_seed(0),
        )
        numbers |= {f"response_{attribute}": response.response[0], f"spread_{attribute}": response.spread[1]}
        exact = {f"response_{attribute}": response.exact_response[0], f"spread_{attribute}": response.exact_spread[1]}
        numbers |= {f"exact_{key}": value for key, value in exact.items()}
    samples = sample_posterior(model, test_set, options["samples"], options["steps"], eta=1.0)
    numbers |= measure_without_baseline(session, test_set, samples)
    return Results({key: float(value) for key, value in numbers.items()}, {})


def measure_without_baseline(
    session: Session, test_set: TestSet, samples: Float[Tensor, "c k 3 h h"]
) -> dict[str, float]:
    """The measures of samples that need no deterministic prediction beside them."""
    context_mask = context_masks(test_set)[:, None].expand_as(test_set.images)
    numbers = {"patch_psnr": float(metrics.psnr(samples[:, 0], test_set.images, 2, context_mask))}
    generator = torch.Generator().manual_seed(0)
    spread_skill = metrics.spread_skill(samples, test_set.images, generator, ~context_mask)
    labels = predict_labels(session.model("classifier"), samples)
    return numbers | spread_skill.as_metrics("spread_skill") | evaluate_labels(test_set, labels, generator)


def evaluate_temperatures(name: str, session: Session) -> Results:
    """The measures of ancestral samples at each of TEMPERATURES, named MEASURE_TEMPERATURE, on validation portraits.

    A denoiser that makes too little of a noisy target follows the likelier category, and all samples come to agree.
    More noise than the denoiser assumes makes up for this. The portraits are a third as many as those of the test set,
    from another seed, with half as many samples each; of both there are at least two.
    """
    options, numbers = session.options, {}
    num_samples = max(2, options["samples"] // 2)
    people = held_out_portraits(count_of_part(options["portraits"], 3), VALIDATION_SEED)
    test_set = make_portrait_test_set(people, VALIDATION_SEED, session.device)
    for temperature in TEMPERATURES:
        samples = sample_posterior(
            session.model(name), test_set, num_samples, options["steps"], 1.0, temperature=temperature
        )
        row = measure_without_baseline(session, test_set, samples)
        numbers |= {add_setting(key, f"{temperature:g}"): value for key, value in row.items()}
    return Results(numbers, {})


def evaluate_schedule(scale: float, steps: int, session: Session) -> Results:
    """The error that the sampler's finite steps cause alone, with ShiftedCosineSchedule(scale)."""
    count = min(count_of_part(session.options["references"], 5), 8000)
    people = portraits.sample_portraits(count, torch.Generator().manual_seed(8)).to(session.device)
    return Results(measures.sampler_discretization_error(people, ShiftedCosineSchedule(scale), count, steps), {})


def make_evaluations() -> dict[str, Evaluation]:
    """All evaluations, by their names; the longest ones first, so that processes that share them end together."""
    classifier, main_variant = ("classifier",), SAMPLERS[MAIN_SAMPLER].variant
    with_baseline = partial(
        Evaluation, baselines=("deterministic",), assets=classifier, least_options={"portraits": 2, "samples": 2}
    )
    of_images = partial(Evaluation, assets=classifier, least_options={"images": measures.MIN_IMAGES})
    samplers = {
        name: with_baseline(partial(evaluate_sampler, name), sampler.variant) for name, sampler in SAMPLERS.items()
    }
    optimised = {name: with_baseline(partial(evaluate_optimisation, name), "generator") for name in OPTIMISED}
    recipes = {
        f"recipe_{name}": with_baseline(partial(evaluate_recipe, name), name, baselines=(), on_request=True)
        for name in (main_variant, *SWEEP)
    }
    temperatures = {
        f"temperature_{name}": Evaluation(
            partial(evaluate_temperatures, name), name, assets=classifier, on_request=name != main_variant
        )
        for name in (main_variant, *SWEEP)
    }
    exact = {f"exact_{scale:g}": (scale, 32) for scale in SCHEDULE_SCALES}
    exact |= {f"exact_{scale:g}_{steps}": (scale, steps) for scale in (1 / 4, 1 / 8) for steps in (64, 128)}
    return {
        **samplers,
        **temperatures,
        "generator": of_images(partial(evaluate_generator, "generator"), "generator"),
        "reference_set": Evaluation(evaluate_reference_set, main_variant, assets=classifier),
        **optimised,
        "true_draws": with_baseline(evaluate_true_draws, "generator"),
        "inverted_true_draws": with_baseline(evaluate_inverted_true_draws, main_variant),
        "deterministic": Evaluation(evaluate_deterministic, "deterministic", assets=classifier),
        "classifier": Evaluation(evaluate_classifier, "classifier"),
        **{name: Evaluation(partial(evaluate_schedule, *settings)) for name, settings in exact.items()},
        **recipes,
    }


# --- the experiment ---------------------------------------------------------------------------------------------------


def add_arguments(action: str, parser: ArgumentParser) -> None:
    """Adds the size of the training set to the command that trains."""
    if action == "train":
        help_text = "in the training set; default: %(default)s"
        parser.add_argument("--portraits", type=positive_int, default=NUM_PORTRAITS, help=help_text)


def make_experiment(num_portraits: int = NUM_PORTRAITS) -> Experiment:
    """The experiment with a training set of that many portraits."""
    return Experiment(
        name="gan_inversion",
        results_name=RESULTS_NAME,
        assets=make_assets(num_portraits),
        variants=make_variants(num_portraits),
        evaluations=make_evaluations(),
        make_test_set=lambda device, options: make_portrait_test_set(
            held_out_portraits(options["portraits"]), device=device
        ),
        predict=sample_posterior,
        evaluation_options={
            "portraits": 768, "samples": NUM_SAMPLES, "steps": 32, "references": 200_000, "effective_size": 2000,
            "images": 10_000,
        },
        headline=(
            "factor_tv", "patch_psnr", "diversity_outside_over_inside", "energy_ratio", "spread_skill",
            "worst_binary", "frechet", "precision", "recall", *portraits.ATTRIBUTE_NAMES,
        ),
        add_arguments=add_arguments,
        configure=lambda own, options: make_experiment(options.portraits) if options.action == "train" else own,
        arguments={} if num_portraits == NUM_PORTRAITS else {"portraits": num_portraits},
    )  # fmt: skip


EXPERIMENT = make_experiment()
