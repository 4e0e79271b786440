"""The trainings and the evaluation behind 04_gan_inversion.

    python -m fwdiff_lite.experiments.gan_inversion auxiliary_classifiers --out build/gan
    python -m fwdiff_lite.experiments.gan_inversion generator --minutes 10 --out build/gan
    python -m fwdiff_lite.experiments.gan_inversion classifier --out build/gan
    python -m fwdiff_lite.experiments.gan_inversion evaluate_generator --out build/gan
    python -m fwdiff_lite.experiments.gan_inversion wplus --minutes 5 --out build/gan
    python -m fwdiff_lite.experiments.gan_inversion evaluate --out build/gan
    python -m fwdiff_lite.experiments.gan_inversion export --out build/gan

`generator` trains a StyleGAN2 on cartoon portraits. Several attribute classifiers are trained, each from its own seed.
The `auxiliary_classifiers` give the generator's auxiliary loss, which matches the frequencies of attributes. The
`classifier` is none of them and is used for evaluation alone. `evaluate_generator` compares generated images with
rendered portraits. Each variant in VARIANTS inverts the generator. `evaluate` compares the variants, and `export` puts
weights and numbers into checkpoints/.

A training of the generator or of a variant has a budget of minutes. The same command resumes it where it stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file
from torch import Tensor, nn

from fwdiff_lite import metrics
from fwdiff_lite.colours import to_uint8
from fwdiff_lite.command_line import positive_int
from fwdiff_lite.devices import CUDAGraphCallable, default_device, is_main_process, num_processes
from fwdiff_lite.diffusion import ForwardDiffusion, ForwardRegression
from fwdiff_lite.experiments.harness import save_weights
from fwdiff_lite.observations import Observations, to_device
from fwdiff_lite.problems.gan_inversion import patches, portraits, stylegan2
from fwdiff_lite.problems.gan_inversion.stylegan2_training import StyleGAN2Trainer
from fwdiff_lite.schedule import CosineSchedule, ShiftedCosineSchedule
from fwdiff_lite.storage.checkpoints import load_pretrained, load_recorded, save_pretrained, save_recorded
from fwdiff_lite.storage.files import read_json, write_json
from fwdiff_lite.storage.provenance import merge_provenance, provenance
from fwdiff_lite.training import INTERRUPTED, TrainingLog, fit

COMMAND = "python -m fwdiff_lite.experiments.gan_inversion"
NUM_PORTRAITS = 2**17  # in the training set
BATCH_SIZE = 64  # many small steps serve a generator better than few large ones
R1_GAMMA = 0.1  # ADA's rule of thumb for 64 pixels and this batch size gives about 0.013; a larger gamma is safer
NOISE_STD = 0.1  # of the noise on the discriminator's input, for images in [-1, 1]
MIXING_PROBABILITY = 0.5  # of an image to mix two styles
LOG_INTERVAL = 100  # steps between two reads of the losses: each of them makes a GPU wait
CHECKPOINT_INTERVAL = 2000  # steps between two states that a training can resume from
AUXILIARY_WEIGHT = 1.0  # of the auxiliary loss: without it, the probability of one attribute was 34 points off
# With a single auxiliary classifier, the generator learnt to deceive it about one mouth in ten
AUXILIARY_SEEDS, AUXILIARY_STEPS = (1, 2, 3), 500
CLASSIFIER_STEPS = 1500  # training steps of the classifier, whose seed is 0
GENERATOR_TEST_SIZE = 10_000  # generated images in the evaluation of the generator
VARIANTS = {  # of the inversion: the model class, the space of its signals, and the weight of Eq. 9
    "w": (ForwardDiffusion, "w", 1.0),
    "wplus": (ForwardDiffusion, "w+", 1.0),
    "wplus_faint": (ForwardDiffusion, "w+", 0.1),
    "deterministic": (ForwardRegression, "w+", 1.0),
}
MAX_CONTEXT_PATCHES = 5  # in the training of a variant: the given patch, and sampled targets
LEARNING_RATE = 1e-3  # of a variant
TEST_SET_SIZE, NUM_SAMPLES, SAMPLING_STEPS = 256, 16, 32  # images, samples of each image, steps of each sample
REFERENCE_SET_SIZE = 20_000  # generated images whose importance weights estimate the generator's posterior
NUM_EXAMPLES = 4  # images of the test set whose samples are recorded
SCHEDULE_SCALES = [2.0**-i for i in range(6)]  # of ShiftedCosineSchedule, compared with an exact denoiser
NUM_REPRODUCED = 4  # images of the test set that the notebook samples again on a CPU
NAME = "04_gan_inversion"
SAMPLERS = {  # in the evaluation: variant, eta, and the number of targets sampled one after another; the main one first
    "wplus_eta_1": ("wplus", 1.0, 5),
    "wplus_eta_0": ("wplus", 0.0, 5),
    "wplus_eta_1_one": ("wplus", 1.0, 1),
    "wplus_eta_0_one": ("wplus", 0.0, 1),
    "wplus_faint_eta_1": ("wplus_faint", 1.0, 5),
    "wplus_faint_eta_0": ("wplus_faint", 0.0, 5),
    "w_eta_1": ("w", 1.0, 5),
}

MAIN_SAMPLER = next(iter(SAMPLERS))
EXPORTED_PREFIXES = (  # of the evaluation's arrays that are exported
    "deterministic", "given", "odds_", "live", "w_eta_1", f"{MAIN_SAMPLER}_labels", "wplus_eta_0_labels",
)  # fmt: skip
# The shipped checkpoints/04_gan_inversion.npz was recorded when some commands had other names: old name -> command
RENAMED_COMMANDS = {
    "coaches": "auxiliary_classifiers",
    "reader": "classifier",
    "judge": "evaluate_generator",
    "examine": "evaluate",
}

# --- the generator ----------------------------------------------------------------------------------------------------


def make_image_sampler(
    count: int, device: torch.device, side: int = 64, seed: int = 7
) -> Callable[[int, torch.Generator], Float[Tensor, "n 3 side side"]]:
    """Renders a training set of `count` portraits, kept on the device in half precision.

    Returns a function of n and a generator on the CPU: n random images of the set.
    """
    people = portraits.sample_portraits(count, torch.Generator().manual_seed(seed)).to(device)
    images = torch.cat([portraits.render(people[rows], side).half() for rows in torch.arange(count).split(1024)])
    return lambda n, generator: images[to_device(torch.randint(count, (n,), generator=generator), device)].float()


def build_trainer(
    device: torch.device, r1_gamma: float = R1_GAMMA, noise_std: float = NOISE_STD, seed: int = 0, **sizes
) -> StyleGAN2Trainer:
    """A trainer of a generator and a discriminator with initial weights.

    sizes: arguments of the generator that replace those of stylegan2.SMALL_GENERATOR; the discriminator's follow them
    """
    torch.manual_seed(seed)
    sizes = stylegan2.SMALL_GENERATOR | sizes
    discriminator_sizes = {key: sizes[key] for key in ("resolution", "channel_base", "channel_max")}
    G, D = stylegan2.Generator(**sizes), stylegan2.Discriminator(**discriminator_sizes)
    return StyleGAN2Trainer(
        G.to(device), D.to(device), r1_gamma=r1_gamma, noise_std=noise_std, mixing_probability=MIXING_PROBABILITY
    )


def train_generator(
    trainer: StyleGAN2Trainer,
    sample_images: Callable[[int, torch.Generator], Float[Tensor, "n 3 side side"]],
    folder: Path,
    batch_size: int = BATCH_SIZE,
    steps: int | None = None,
    seconds: float | None = None,
    seed: int = 0,
) -> TrainingLog:
    """Trains generator and discriminator within a budget, and saves a state that the next call resumes from.

    sample_images: returns n real images, given n and a generator on the CPU
    steps, seconds: the budget, whichever ends first, earlier calls included. ValueError without a budget

    The curve of the log holds the mean losses of every LOG_INTERVAL steps.
    """
    if steps is None and seconds is None:
        raise ValueError("a training needs a budget: give steps, seconds or both")
    device = next(trainer.G.parameters()).device
    cpu_generator, device_generator = torch.Generator().manual_seed(seed), torch.Generator(device).manual_seed(seed)
    log, path = TrainingLog(), folder / "generator.state"
    if path.exists():
        log = _resume(path, trainer, cpu_generator, device_generator)
    trainer.adversarial_step = CUDAGraphCallable(trainer.adversarial_step, device_generator)
    trainer.r1_step = CUDAGraphCallable(trainer.r1_step, device_generator)
    started, recent_losses = time.monotonic() - log.seconds, []
    while (steps is None or log.steps < steps) and (seconds is None or log.seconds < seconds):
        recent_losses.append(trainer.step(sample_images(batch_size, cpu_generator), device_generator))
        log.steps += 1
        if log.steps % LOG_INTERVAL == 0 or log.steps == steps:
            for name in recent_losses[0]:
                mean = torch.stack([losses[name] for losses in recent_losses if name in losses]).mean()
                log.curve.setdefault(name, []).append(round(float(mean), 5))
            recent_losses = []
        log.seconds = time.monotonic() - started
        if log.steps % CHECKPOINT_INTERVAL == 0:
            _save_state(path, trainer, cpu_generator, device_generator, log)
    _save_state(path, trainer, cpu_generator, device_generator, log)
    return log


STATE_NETWORKS = ("G", "D", "G_ema", "optimizer_G", "optimizer_D")  # attributes of a trainer that have a state_dict
STATE_NUMBERS = ("augment_p", "mean_path_length", "steps", "images")


def _save_state(
    path: Path,
    trainer: StyleGAN2Trainer,
    cpu_generator: torch.Generator,
    device_generator: torch.Generator,
    log: TrainingLog,
) -> None:
    state = {
        "networks": {name: getattr(trainer, name).state_dict() for name in STATE_NETWORKS},
        "numbers": {name: getattr(trainer, name) for name in STATE_NUMBERS},
        "random": {"cpu": cpu_generator.get_state(), "device": device_generator.get_state()},
        "log": vars(log),
    }
    if trainer.auxiliary_loss:
        state["running_moments"] = trainer.auxiliary_loss.running_moments
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


def _resume(
    path: Path, trainer: StyleGAN2Trainer, cpu_generator: torch.Generator, device_generator: torch.Generator
) -> TrainingLog:
    state = torch.load(path, weights_only=True, map_location=next(trainer.G.parameters()).device)
    for name, values in state["networks"].items():
        getattr(trainer, name).load_state_dict(values)
    for name, value in state["numbers"].items():
        setattr(trainer, name, value)
    cpu_generator.set_state(state["random"]["cpu"].cpu())
    device_generator.set_state(state["random"]["device"].cpu())
    if trainer.auxiliary_loss:
        trainer.auxiliary_loss.running_moments.copy_(state["running_moments"])
    return TrainingLog(**state["log"])


def generate_images(
    G: stylegan2.Generator, n: int, generator: torch.Generator, psi: float = 1.0, chunk_size: int = 250
) -> Float[Tensor, "n 3 h w"]:
    """n images with the constant noise, `chunk_size` at a time. Latent codes are drawn on the CPU; psi: truncation."""
    z = torch.randn(n, G.mapping.z_dim, generator=generator).to(G.mapping.w_avg.device)
    with torch.no_grad():
        return torch.cat([G(chunk, psi) for chunk in z.split(chunk_size)])


# --- inversion --------------------------------------------------------------------------------------------------------


def build_model(variant: str, G: stylegan2.Generator, seed: int = 0, **encoder_options) -> ForwardDiffusion:
    """The model of a variant with initial weights. ValueError on an unknown variant."""
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}: choose one of {', '.join(VARIANTS)}")
    model_class, space, novel_weight = VARIANTS[variant]
    torch.manual_seed(seed)
    forward_model = patches.CroppedGenerator(G)
    denoiser = patches.PatchDenoiser(forward_model, patches.w_std(G), space, **encoder_options)
    return model_class(denoiser, forward_model, patches.SCHEDULE, novel_weight=novel_weight)


def train_inversion(
    model: ForwardDiffusion,
    sample_images: Callable[[int, torch.Generator], Float[Tensor, "n 3 side side"]],
    folder: Path,
    name: str,
    batch_size: int = BATCH_SIZE,
    max_context_patches: int = MAX_CONTEXT_PATCHES,
    **budget,
) -> TrainingLog:
    """Trains on patches of real images within a budget of `steps` or `seconds`, earlier calls included."""
    on_gpu = default_device().type == "cuda"
    return fit(
        model,
        patches.batches(sample_images, batch_size, max_context_patches),
        learning_rate=LEARNING_RATE,
        bf16=on_gpu,
        compile=on_gpu,
        checkpoint=folder / f"{name}.state",
        checkpoint_every=CHECKPOINT_INTERVAL,
        progress=False,
        **budget,
    )


# --- the evaluation of the generator ----------------------------------------------------------------------------------


def attribute_frequencies(labels: Tensor) -> list[Float[Tensor, "k"]]:
    """The frequency of each category of each attribute, from labels (n, 10)."""
    num_categories = [len(categories) for categories in portraits.ATTRIBUTES.values()]
    columns = zip(labels.T, num_categories, strict=True)
    return [torch.bincount(column, minlength=k) / len(labels) for column, k in columns]


def evaluate_generator(
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
    frequencies = [attribute_frequencies(classifier.predict(x).cpu()) for x in (fake, real)]
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


# --- the evaluation of inversion --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TestSet:
    """C held-out images, each with a context patch, targets that cover the image, and a patch for the energy score.

    context: one patch of each image
    target_params: the centre first, then the quadrants in random order. Quadrants alone would cut both eyes, and each
        would be sampled by itself
    held_out_params: the crop of the energy score
    observed: which attributes the context shows. None where the images are generated: their attributes' posterior is
        estimated with a reference set
    probabilities: for each attribute, the true probabilities of its categories given the other observed attributes
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
    context_params = patches.sample_crops(c, 1, generator, patches.CONTEXT_SIZES, side)
    held_out_params = patches.sample_crops(c, 1, generator, patches.TARGET_SIZES, side)
    corners = torch.cartesian_prod(*2 * (torch.tensor([0.0, side // 2]),))
    quadrants = torch.cat([corners, torch.full((4, 1), side / 2)], 1)[torch.rand(c, 4, generator=generator).argsort(1)]
    centre = torch.tensor([side / 4, side / 4, side / 2]).expand(c, 1, 3)
    target_params = torch.cat([centre, quadrants], 1)
    return TestSet(images, patches.observe(images, context_params), target_params, held_out_params)


def held_out_portraits(count: int = TEST_SET_SIZE, seed: int = 2026) -> portraits.Portraits:
    """Portraits that are in no training set."""
    return portraits.sample_portraits(count, torch.Generator().manual_seed(seed))


def make_portrait_test_set(people: portraits.Portraits, seed: int = 2026) -> TestSet:
    """Images and crops of portraits, with the true probabilities of the attributes that a context does not show."""
    test_set = make_test_set(portraits.render(people), seed)
    masks = patches.patch_mask(test_set.context.params[:, 0], test_set.images.shape[-1])[:, 0] > 0
    observed, probabilities = portraits.visible_attributes(people, masks), {}
    for i, name in enumerate(portraits.ATTRIBUTE_NAMES):
        other_observed = observed.clone()
        other_observed[:, i] = False
        probabilities[name] = portraits.conditional_probabilities(people, other_observed, name)
    return replace(test_set, observed=observed, probabilities=probabilities)


def sample_posterior(
    model: ForwardDiffusion,
    test_set: TestSet,
    k: int = NUM_SAMPLES,
    num_targets: int = 5,
    eta: float = 0.0,
    seed: int = 0,
    chunk_size: int = 256,
) -> Float[Tensor, "c k 3 h h"]:
    """Whole images: for each context, k latent codes from autoregressive sampling of its first `num_targets` targets.

    A ForwardRegression makes one prediction (k = 1), for the crop of the energy score. The result is on the test set's
    device.
    """
    G, chunks, test_device = model.forward_model.G, [], test_set.images.device
    device = G.mapping.w_avg.device
    if isinstance(model, ForwardRegression):
        signal = model.sample(test_set.context.to(device), test_set.held_out_params.to(device)).signal
        return G.synthesis(signal)[:, None].to(test_device)
    generator, contexts = torch.Generator().manual_seed(seed), test_set.context.repeat(k)
    target_params = test_set.target_params[:, :num_targets].repeat_interleave(k, 0)
    for rows in torch.arange(len(contexts)).split(chunk_size):
        options = {"steps": SAMPLING_STEPS, "eta": eta, "generator": generator}
        step, _ = model.sample_autoregressive(contexts[rows].to(device), target_params[rows].to(device), **options)
        with torch.no_grad():
            chunks.append(G.synthesis(step.signal).to(test_device))
    return torch.cat(chunks).unflatten(0, (-1, k))


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

    An attribute is evaluated on the test images whose context does not show it, if there are at least 20 of them.
    `factor_tv` is the largest value of all attributes: an average would let one attribute hide another.
    """
    generator, numbers = torch.Generator().manual_seed(seed), {}

    side = test_set.images.shape[-1]
    context_mask = patches.patch_mask(test_set.context.params[:, 0], side).expand_as(test_set.images) > 0
    held_out_mask = patches.patch_mask(test_set.held_out_params[:, 0], side).expand_as(test_set.images) > 0
    unobserved_mask = held_out_mask & ~context_mask
    numbers["patch_psnr"] = metrics.psnr(samples[:, 0], test_set.images, 2, context_mask)
    numbers["patch_psnr_deterministic"] = metrics.psnr(prediction[:, 0], test_set.images, 2, context_mask)
    variance_inside, variance_outside = metrics.variance_inside_outside(samples, context_mask)
    numbers["diversity_outside_over_inside"] = (variance_outside / variance_inside) ** 0.5
    truth = test_set.images * unobserved_mask  # pixels without a score are 0 in truth, samples and prediction
    sample_scores = metrics.energy_score(samples * unobserved_mask[:, None], truth)
    prediction_scores = metrics.euclidean_error(prediction[:, 0] * unobserved_mask, truth)
    numbers |= metrics.energy_ratio(sample_scores, prediction_scores, generator).as_metrics("energy_ratio")
    numbers |= metrics.spread_skill(samples, test_set.images, generator, unobserved_mask).as_metrics("spread_skill")
    for prefix, labels in (("", sample_labels), ("deterministic_", prediction_labels)):
        for i, (name, probabilities) in enumerate(test_set.probabilities.items()):
            unobserved = ~test_set.observed[:, i]
            if unobserved.sum() < 20:
                continue
            attribute_labels, p = labels[unobserved, :, i], probabilities[unobserved]
            numbers |= metrics.factor_tv(attribute_labels, p, generator).as_metrics(f"{prefix}factor_tv_{name}")
            if not prefix:
                rms = metrics.per_context_calibration_rms(attribute_labels, p, generator)
                numbers |= rms.as_metrics(f"factor_scene_rms_{name}")
        keys = [f"{prefix}factor_tv_{name}" for name in test_set.probabilities]
        if values := [numbers[key] for key in keys if key in numbers]:
            numbers[f"{prefix}factor_tv"] = max(values)
    return {name: float(value) for name, value in numbers.items()}


def predict_labels(
    classifier: portraits.AttributeClassifier, samples: Float[Tensor, "c k 3 64 64"]
) -> Int[Tensor, "c k a"]:
    """The attributes of samples, predicted on the classifier's device; the result is on the samples' device."""
    images = samples.flatten(0, 1).to(next(classifier.parameters()).device)
    return classifier.predict(images).unflatten(0, samples.shape[:2]).to(samples.device)


def reference_agreement(
    test_set: TestSet,
    sample_labels: Int[Tensor, "c k a"],
    references: Float[Tensor, "n 3 h h"],
    reference_labels: Int[Tensor, "n a"],
) -> dict[str, float]:
    """Attributes of samples against the generator's posterior, which importance weights of a reference set estimate.

    Total variation of each attribute, as a mean over contexts and attributes (`bank_tv`). Beside it stand the value of
    one half of the reference set against the other (`bank_tv_halves`), and that of K exact draws from the estimated
    posterior (`bank_tv_chance`). `bank_least_size` is the smallest effective sample size.
    """
    distances = patches.reference_distances(references, test_set.context)
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
    steps: int = SAMPLING_STEPS,
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
    frequencies = [attribute_frequencies(people.attributes[rows]) for rows in (step.signal.argmax(1), slice(None))]
    total_variations = [(a - b).abs().sum() / 2 for a, b in zip(*frequencies, strict=True)]
    return {"spread": float(spreads[0] / spreads[1]), "tv": float(max(total_variations))}


# --- the commands -----------------------------------------------------------------------------------------------------


def _to_uint8_labels(labels: Int[Tensor, "..."]) -> np.ndarray:
    return labels.cpu().numpy().astype(np.uint8)


def _load_weights(network: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    """The network with these weights, frozen and in eval mode."""
    network.load_state_dict({key: value.float() for key, value in weights.items()})
    return network.eval().requires_grad_(False)


def _load_generator(folder: Path, device: torch.device) -> stylegan2.Generator:
    """The generator that the command `generator` left in the folder."""
    G = stylegan2.Generator(**stylegan2.SMALL_GENERATOR)
    return _load_weights(G, load_file(folder / "generator.safetensors")).to(device)


def _load_classifier(folder: Path, device: torch.device) -> portraits.AttributeClassifier:
    """The classifier that the command `classifier` left in the folder."""
    return _load_weights(portraits.AttributeClassifier(), load_file(folder / "classifier.safetensors")).to(device)


def _build_auxiliary_classifiers() -> nn.ModuleList:
    """The auxiliary classifiers with initial weights."""
    return nn.ModuleList(portraits.AttributeClassifier() for _ in AUXILIARY_SEEDS)


def _run_generator(folder: Path, device: torch.device, options: argparse.Namespace) -> dict:
    trainer = build_trainer(device, options.r1_gamma, options.noise_std)
    sample_images = make_image_sampler(options.portraits, device)
    if options.auxiliary_weight:
        real = sample_images(min(GENERATOR_TEST_SIZE, options.portraits), torch.Generator().manual_seed(0))
        real = trainer.augment_for_D(real, torch.Generator(device).manual_seed(0))
        weights = load_file(folder / "auxiliary_classifiers.safetensors")
        classifiers = _load_weights(_build_auxiliary_classifiers(), weights).to(device)
        trainer.auxiliary_loss = portraits.AttributeMomentLoss(classifiers, real, options.auxiliary_weight)
    budget = {"steps": options.steps, "seconds": 60 * options.minutes}
    log = train_generator(trainer, sample_images, folder, options.batch_size, **budget)
    save_weights(trainer.G_ema, folder / "generator.safetensors")
    examples = to_uint8(generate_images(trainer.G_ema, 64, torch.Generator().manual_seed(1)))
    np.savez_compressed(folder / "generated.npz", images=examples)
    minutes = log.seconds / 60 / options.jobs_per_gpu
    return {"gpu_minutes": minutes, "images": trainer.images} | vars(log)


def _train_classifier(classifier: portraits.AttributeClassifier, steps: int, seed: int) -> dict:
    """Trains a classifier. Returns its losses, and its accuracy on rendered portraits for each attribute."""
    device = next(classifier.parameters()).device
    losses = portraits.train_classifier(classifier, steps, torch.Generator().manual_seed(seed))
    people = portraits.sample_portraits(2000, torch.Generator().manual_seed(2026)).to(device)
    accuracy = (classifier.predict(portraits.render(people)) == people.attributes).double().mean(0)
    numbers = dict(zip(portraits.ATTRIBUTE_NAMES, accuracy.tolist(), strict=True))
    return {"seed": seed, "curve": losses[::10], "numbers": numbers}


def _run_classifier(folder: Path, device: torch.device, options: argparse.Namespace) -> dict:
    torch.manual_seed(0)
    classifier = portraits.AttributeClassifier().to(device)
    record = _train_classifier(classifier, options.steps or CLASSIFIER_STEPS, 0)
    save_weights(classifier, folder / "classifier.safetensors")
    return record


def _run_auxiliary_classifiers(folder: Path, device: torch.device, options: argparse.Namespace) -> dict:
    torch.manual_seed(AUXILIARY_SEEDS[0])
    classifiers = _build_auxiliary_classifiers().to(device)
    records = [
        _train_classifier(classifier, options.steps or AUXILIARY_STEPS, seed)
        for classifier, seed in zip(classifiers, AUXILIARY_SEEDS, strict=True)
    ]
    save_weights(classifiers, folder / "auxiliary_classifiers.safetensors")
    return {"seed": AUXILIARY_SEEDS[0], "classifiers": records}


def _run_generator_evaluation(folder: Path, device: torch.device, options: argparse.Namespace) -> dict:
    count = options.count or GENERATOR_TEST_SIZE
    fake = generate_images(_load_generator(folder, device), count, torch.Generator().manual_seed(2))
    people = portraits.sample_portraits(count, torch.Generator().manual_seed(3)).to(device)
    real = torch.cat([portraits.render(people[rows]) for rows in torch.arange(count).split(500)])
    return {"count": count, "numbers": evaluate_generator(fake, real, _load_classifier(folder, device))}


def _run_variant(folder: Path, device: torch.device, options: argparse.Namespace) -> dict:
    variant = options.command
    model = build_model(variant, _load_generator(folder, device))
    sample_images = make_image_sampler(options.portraits, device)
    budget = {"steps": options.steps, "seconds": 60 * options.minutes}
    log = train_inversion(model, sample_images, folder, variant, options.batch_size, **budget)
    if log.interrupted:
        raise SystemExit(INTERRUPTED)
    if is_main_process():
        save_weights(model.denoiser, folder / f"{variant}.safetensors")
    chunks = {
        name: np.split(values, range(LOG_INTERVAL, len(values), LOG_INTERVAL)) for name, values in log.curve.items()
    }
    curve = {name: [round(float(chunk.mean()), 5) for chunk in values] for name, values in chunks.items()}
    minutes = log.seconds / 60 * num_processes() / options.jobs_per_gpu
    return {"gpu_minutes": minutes, "steps": log.steps, "batch": options.batch_size, "curve": curve}


def _run_evaluation(folder: Path, device: torch.device, options: argparse.Namespace) -> dict:
    """Evaluates SAMPLERS on portraits, optimisation on a quarter of them, and the main sampler on generated images."""
    G, classifier = _load_generator(folder, device), _load_classifier(folder, device)
    count = options.count or TEST_SET_SIZE
    chunk_size = 1024 if device.type == "cuda" else 128
    models = {}
    for variant in VARIANTS:
        models[variant] = build_model(variant, G).eval()
        weights = load_file(folder / f"{variant}.safetensors")
        models[variant].denoiser = _load_weights(models[variant].denoiser, weights).to(device)
    test_set = make_portrait_test_set(held_out_portraits(count))
    examples, prediction, numbers = slice(NUM_EXAMPLES), sample_posterior(models["deterministic"], test_set), {}
    prediction_labels = predict_labels(classifier, prediction)
    arrays = {
        "deterministic": to_uint8(prediction[examples]),
        "deterministic_labels": _to_uint8_labels(prediction_labels),
        "given": test_set.observed.cpu().numpy(),
    }
    arrays |= {f"odds_{name}": p.cpu().numpy().astype(np.float32) for name, p in test_set.probabilities.items()}

    def evaluate(name: str, samples: Float[Tensor, "c k 3 h h"], started: float) -> None:
        n, labels = len(samples), predict_labels(classifier, samples)
        numbers[name] = evaluate_samples(test_set.first(n), samples, prediction[:n], labels, prediction_labels[:n])
        numbers[name]["seconds_a_sample"] = (time.monotonic() - started) / samples[:, :, 0, 0, 0].numel()
        arrays.update({name: to_uint8(samples[examples, :2]), f"{name}_labels": _to_uint8_labels(labels)})
        print(name, json.dumps({key: round(value, 3) for key, value in numbers[name].items()}), flush=True)

    for name, (variant, eta, num_targets) in SAMPLERS.items():
        started = time.monotonic()
        samples = sample_posterior(models[variant], test_set, options.samples, num_targets, eta, chunk_size=chunk_size)
        evaluate(name, samples, started)
    started = time.monotonic()
    subset, forward_model = test_set.first(count // 4), models["wplus"].forward_model
    initial_latents = patches.sample_w(G, len(subset.images) * options.samples, torch.Generator().manual_seed(6))
    contexts = subset.context.repeat(options.samples).to(device)
    latents = patches.optimise_latents(forward_model, contexts, initial_latents)
    with torch.no_grad():
        evaluate("optimised", G.synthesis(latents).unflatten(0, (-1, options.samples)).cpu(), started)

    generated_set = make_test_set(generate_images(G, count // 4, torch.Generator().manual_seed(4)).cpu())
    references = generate_images(G, options.references, torch.Generator().manual_seed(5))
    variant, eta, num_targets = SAMPLERS[MAIN_SAMPLER]
    samples = sample_posterior(
        models[variant], generated_set, 4 * options.samples, num_targets, eta, chunk_size=chunk_size
    )
    labels = predict_labels(classifier, samples)
    generated_set = replace(generated_set, context=generated_set.context.to(device))
    numbers["bank"] = reference_agreement(generated_set, labels, references, classifier.predict(references))
    arrays["live"] = to_uint8(sample_posterior(models[variant], test_set.first(NUM_REPRODUCED), 2, num_targets, eta))
    np.savez_compressed(folder / "evaluation.npz", **arrays)
    people = portraits.sample_portraits(options.references // 5, torch.Generator().manual_seed(8)).to(device)
    errors = {}
    for scale in SCHEDULE_SCALES:
        schedule = ShiftedCosineSchedule(scale)
        errors[f"{scale:g}"] = sampler_discretization_error(people, schedule, min(len(people), 2000))
    record = {"count": count, "samples": options.samples, "bank": options.references, "numbers": numbers}
    return record | {"without_error": errors}


def export_checkpoint(folder: Path) -> None:
    """Puts weights, numbers and examples into checkpoints/, with their provenance."""
    records = {path.stem: read_json(path) for path in sorted(folder.glob("*.json"))}
    main_variant = SAMPLERS[MAIN_SAMPLER][0]
    sampler_numbers = records["evaluate"]["numbers"]
    # the weights' file in the folder: (name of the checkpoint, its headline metrics, the commands that made it)
    parts = {
        "generator": (
            f"{NAME}_generator", records["evaluate_generator"]["numbers"], ("auxiliary_classifiers", "generator")
        ),
        "classifier": (f"{NAME}_reader", records["classifier"]["numbers"], ("classifier",)),
        main_variant: (NAME, sampler_numbers[MAIN_SAMPLER], (main_variant,)),
    }  # fmt: skip
    for part, (name, numbers, commands) in parts.items():
        rounded = {key: round(value, 4) for key, value in numbers.items()}
        part_provenance = merge_provenance([records[command] for command in commands])
        save_pretrained(name, load_file(folder / f"{part}.safetensors"), metrics=rounded, **part_provenance)
    with np.load(folder / "evaluation.npz") as evaluation:
        arrays = {name: evaluation[name] for name in evaluation.files if name.startswith(EXPORTED_PREFIXES)}
    arrays["records"] = np.array(json.dumps(records))
    rounded = {
        name: round(sampler_numbers[name]["factor_tv"], 4) for name in SAMPLERS if "factor_tv" in sampler_numbers[name]
    }
    commands = ("classifier", "auxiliary_classifiers", "generator", "evaluate_generator", *VARIANTS, "evaluate")
    save_recorded(NAME, arrays, metrics=rounded, **merge_provenance([records[command] for command in commands]))


def _build_networks(
    generator_weights: dict[str, Tensor], classifier_weights: dict[str, Tensor], denoiser_weights: dict[str, Tensor]
) -> tuple[stylegan2.Generator, portraits.AttributeClassifier, ForwardDiffusion]:
    G = _load_weights(stylegan2.Generator(**stylegan2.SMALL_GENERATOR), generator_weights)
    model = build_model(SAMPLERS[MAIN_SAMPLER][0], G).eval()
    model.denoiser = _load_weights(model.denoiser, denoiser_weights)
    return G, _load_weights(portraits.AttributeClassifier(), classifier_weights), model


def load_pretrained_model() -> tuple[stylegan2.Generator, portraits.AttributeClassifier, ForwardDiffusion]:
    """The generator, the attribute classifier and the model that inverts the generator, from checkpoints/."""
    return _build_networks(*(load_pretrained(name) for name in (f"{NAME}_generator", f"{NAME}_reader", NAME)))


def load_model(folder: Path) -> tuple[stylegan2.Generator, portraits.AttributeClassifier, ForwardDiffusion]:
    """The same as load_pretrained_model, from the folder that the commands wrote to."""
    parts = ("generator", "classifier", SAMPLERS[MAIN_SAMPLER][0])
    return _build_networks(*(load_file(folder / f"{part}.safetensors") for part in parts))


def load_results() -> tuple[dict[str, dict], dict[str, np.ndarray]]:
    """The exported record of every command, by the command's name, and the exported arrays of the evaluation."""
    arrays = load_recorded(NAME)
    records = json.loads(str(arrays.pop("records")))
    return {RENAMED_COMMANDS.get(name, name): record for name, record in records.items()}, arrays


COMMANDS = {
    "classifier": _run_classifier,
    "auxiliary_classifiers": _run_auxiliary_classifiers,
    "generator": _run_generator,
    "evaluate_generator": _run_generator_evaluation,
    **dict.fromkeys(VARIANTS, _run_variant),
    "evaluate": _run_evaluation,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command. arguments: of the command line; None: those of the process."""
    parser = argparse.ArgumentParser(description="Train, evaluate and export the networks of 04_gan_inversion.")
    parser.add_argument("command", choices=(*COMMANDS, "export"))
    parser.add_argument("--out", type=Path, default=Path("build/gan"), help="the folder of all results")
    parser.add_argument("--minutes", type=float, default=10.0, help="of training, for the generator or a variant")
    parser.add_argument("--steps", type=positive_int, help="of training, at most")
    parser.add_argument("--portraits", type=positive_int, default=NUM_PORTRAITS, help="in the training set")
    parser.add_argument("--r1-gamma", type=float, default=R1_GAMMA, help="weight of the R1 penalty, for the generator")
    parser.add_argument(
        "--noise-std", type=float, default=NOISE_STD, help="of noise on the discriminator's input, for the generator"
    )
    parser.add_argument(
        "--auxiliary-weight", type=float, default=AUXILIARY_WEIGHT, help="weight of the generator's auxiliary loss"
    )
    parser.add_argument("--batch-size", type=positive_int, default=BATCH_SIZE, help="portraits in a training step")
    parser.add_argument(
        "--count",
        type=positive_int,
        help=f"images to evaluate on; default: {GENERATOR_TEST_SIZE} for the generator, {TEST_SET_SIZE} for inversion",
    )
    parser.add_argument("--samples", type=positive_int, default=NUM_SAMPLES, help="of each image in the evaluation")
    parser.add_argument("--jobs-per-gpu", type=positive_int, default=1, help="commands that run on the GPU at once")
    parser.add_argument(
        "--references", type=positive_int, default=REFERENCE_SET_SIZE, help="generated images in the reference set"
    )
    options = parser.parse_args(arguments)
    if options.command == "export":
        return export_checkpoint(options.out)
    if num_processes() > 1 and options.command not in VARIANTS:
        parser.error(f"{options.command} runs in one process: start it without `accelerate launch`")
    options.out.mkdir(parents=True, exist_ok=True)
    device = default_device()
    torch.backends.cudnn.benchmark = device.type == "cuda"
    started, command_line = time.monotonic(), f"{COMMAND} {options.command}"
    if options.command in ("generator", *VARIANTS):
        command_line += f" --minutes {options.minutes:g} --batch-size {options.batch_size}"
    if options.command == "generator":
        command_line += f" --r1-gamma {options.r1_gamma:g} --noise-std {options.noise_std:g}"
        command_line += f" --auxiliary-weight {options.auxiliary_weight:g}"
    if options.jobs_per_gpu > 1:
        command_line += f" --jobs-per-gpu {options.jobs_per_gpu}"
    record = provenance(command_line) | {"seed": 0}
    results = COMMANDS[options.command](options.out, device, options)
    minutes = (time.monotonic() - started) / 60 / options.jobs_per_gpu if device.type == "cuda" else 0.0
    if not is_main_process():
        return
    record |= {"gpu_minutes": minutes} | results
    write_json(options.out / f"{options.command}.json", record)
    summary = {key: value for key, value in record.items() if key not in ("curve", "command")}
    print(options.command, json.dumps(summary), flush=True)


if __name__ == "__main__":
    main()
