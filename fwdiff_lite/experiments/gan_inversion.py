"""The experiment of 04_gan_inversion: assets, variants, test set, measures.

    python -m fwdiff_lite.experiments gan_inversion train auxiliary_classifiers --steps 500
    python -m fwdiff_lite.experiments gan_inversion train generator --minutes 10
    python -m fwdiff_lite.experiments gan_inversion train classifier --steps 1500
    python -m fwdiff_lite.experiments gan_inversion train wplus deterministic --minutes 5
    python -m fwdiff_lite.experiments gan_inversion evaluate
    python -m fwdiff_lite.experiments gan_inversion export wplus generator classifier

The asset `generator` is a StyleGAN2 of cartoon portraits. Several attribute classifiers are trained, each from its own
seed. The `auxiliary_classifiers` give the generator's auxiliary loss, which matches the frequencies of attributes. The
`classifier` is none of them and is used for evaluation alone. Each variant inverts the generator.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser
from dataclasses import asdict, dataclass, field, replace
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fwdiff_lite import metrics
from fwdiff_lite.colours import to_uint8
from fwdiff_lite.command_line import positive_int
from fwdiff_lite.diffusion import ForwardDiffusion, ForwardRegression
from fwdiff_lite.experiments.harness import Asset, Evaluation, Experiment, Results, Session, Training, Variant
from fwdiff_lite.observations import Observations
from fwdiff_lite.problems.gan_inversion import measures, patches, portraits, stylegan2, stylegan2_training
from fwdiff_lite.protocols import BatchFunction
from fwdiff_lite.schedule import ShiftedCosineSchedule
from fwdiff_lite.storage.files import atomic_write
from fwdiff_lite.training import TrainingLog

RESULTS_NAME = "04_gan_inversion"
NUM_PORTRAITS = 2**17  # in the training set
BATCH_SIZE = 64  # many small steps serve a generator better than few large ones
# ADA's rule of thumb for 64 pixels and this batch size gives an r1_gamma of about 0.013; a larger one is safer
TRAINER_OPTIONS = stylegan2_training.TrainerOptions(r1_gamma=0.1, noise_std=0.1, mixing_probability=0.5)
AUXILIARY_WEIGHT = 1.0  # of the auxiliary loss: without it, the probability of one attribute was 34 points off
NUM_AUXILIARY_CLASSIFIERS = 3  # with a single one, the generator learnt to deceive it about one mouth in ten
NUM_AUXILIARY_IMAGES = 10_000  # of the training set, whose attributes the auxiliary loss matches
MAX_CONTEXT_PATCHES = 5  # in the training of a variant: the given patch, and sampled targets
NUM_SAMPLES = 16  # of each image of the test set
NUM_EXAMPLES = 4  # images of the test set whose samples are recorded
NUM_REPRODUCED = 4  # images of the test set that the notebook samples again on a CPU
SCHEDULE_SCALES = [2.0**-i for i in range(6)]  # of ShiftedCosineSchedule, compared with an exact denoiser
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


# --- the test set -----------------------------------------------------------------------------------------------------


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
    options = {"steps": steps, "eta": eta, "generator": generator}
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
    numbers["diversity_outside_over_inside"] = (variance_outside / variance_inside) ** 0.5
    truth = test_set.images * unobserved_mask  # pixels without a score are 0 in truth, samples and prediction
    sample_scores = metrics.energy_score(samples * unobserved_mask[:, None], truth)
    prediction_scores = metrics.euclidean_error(prediction[:, 0] * unobserved_mask, truth)
    numbers |= metrics.energy_ratio(sample_scores, prediction_scores, generator).as_metrics("energy_ratio")
    numbers |= metrics.spread_skill(samples, test_set.images, generator, unobserved_mask).as_metrics("spread_skill")
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

    An attribute is evaluated on the test images whose context does not show it, if there are at least 20 of them.
    `factor_tv` is the largest value of all attributes: an average would let one attribute hide another.
    """
    generator = torch.Generator().manual_seed(seed)
    numbers = evaluate_images(test_set, samples, prediction, generator)
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


# --- assets and variants ----------------------------------------------------------------------------------------------


def build_classifiers(count: int, seed: int, **sizes) -> nn.ModuleList:
    """Attribute classifiers with initial weights; sizes: arguments of AttributeClassifier."""
    torch.manual_seed(seed)
    return nn.ModuleList(portraits.AttributeClassifier(**sizes) for _ in range(count))


def build_classifier(seed: int, **sizes) -> portraits.AttributeClassifier:
    """The classifier of the evaluation with initial weights; sizes: arguments of AttributeClassifier."""
    return build_classifiers(1, seed, **sizes)[0]


def train_classifiers(network: nn.Module, training: Training) -> TrainingLog:
    """Trains all classifiers of the network, from successive seeds. ValueError on a training without steps.

    If the state has all steps, its weights are loaded. A second training on a GPU would give slightly different
    weights, and models trained with the first ones would not fit.
    """
    if training.steps is None:
        raise ValueError("classifiers are trained for a number of steps, not of minutes: give --steps")
    state = torch.load(training.checkpoint, weights_only=True) if training.checkpoint.exists() else {"steps": 0}
    if state["steps"] == training.steps:
        network.load_state_dict(state["weights"])
        return TrainingLog(training.steps, state["seconds"], state["curve"])
    start_time, curve = time.monotonic(), {}
    classifiers = [x for x in network.to(training.device).modules() if isinstance(x, portraits.AttributeClassifier)]
    for seed, classifier in enumerate(classifiers, training.seed):
        generator = torch.Generator().manual_seed(seed)
        losses = portraits.train_classifier(classifier, training.steps, generator, training.batch_size)
        curve[f"loss_of_seed_{seed}"] = losses
    log = TrainingLog(training.steps, time.monotonic() - start_time, curve)
    with atomic_write(training.checkpoint) as temporary:
        torch.save(vars(log) | {"weights": network.cpu().state_dict()}, temporary)
    return log


def build_generator(seed: int, **sizes) -> stylegan2.Generator:
    """The generator with initial weights; sizes: arguments that replace those of stylegan2.SMALL_GENERATOR."""
    torch.manual_seed(seed)
    return stylegan2.Generator(**stylegan2.SMALL_GENERATOR | sizes)


def train_generator(num_portraits: int, G: stylegan2.Generator, training: Training) -> TrainingLog:
    """Trains the generator with a discriminator and the auxiliary loss; at the end it holds the EMA of its weights."""
    device, sizes = training.device, stylegan2.SMALL_GENERATOR
    sample_images = portraits.make_image_sampler(num_portraits, device)
    D = stylegan2.Discriminator(sizes["resolution"], sizes["channel_base"], sizes["channel_max"])
    trainer = stylegan2_training.StyleGAN2Trainer(G.to(device), D.to(device), TRAINER_OPTIONS)
    real = sample_images(min(NUM_AUXILIARY_IMAGES, num_portraits), torch.Generator().manual_seed(0))
    real = trainer.augment_for_D(real, torch.Generator(device).manual_seed(0))
    classifiers = training.assets["auxiliary_classifiers"]
    trainer.auxiliary_loss = portraits.AttributeMomentLoss(classifiers, real, AUXILIARY_WEIGHT)
    log = stylegan2_training.train_generator(
        trainer,
        sample_images,
        training.batch_size,
        steps=training.steps,
        seconds=training.seconds,
        seed=training.seed,
        checkpoint=training.checkpoint,
    )
    G.load_state_dict(trainer.G_ema.state_dict())
    return log


def build_model(
    model_class: type[ForwardDiffusion],
    space: str,
    novel_weight: float,
    generator: stylegan2.Generator,
    seed: int = 0,
    side: int | None = None,
    **encoder_options,
) -> ForwardDiffusion:
    """A model of the latent codes in "w" or "w+", with initial weights; novel_weight: of Eq. 9; side: of the images."""
    torch.manual_seed(seed)
    forward_model = patches.CroppedGenerator(generator, side)
    denoiser = patches.PatchDenoiser(forward_model, patches.w_std(generator), space, **encoder_options)
    schedule = patches.schedule_of_side(forward_model.side)
    return model_class(denoiser, forward_model, schedule, novel_weight=novel_weight)


def training_batches(num_portraits: int, device: torch.device, batch_size: int) -> BatchFunction:
    """Batches of patches of the training set, on the device."""
    sample_images = portraits.make_image_sampler(num_portraits, device)
    return patches.batches(sample_images, batch_size, MAX_CONTEXT_PATCHES)


def make_assets(num_portraits: int) -> dict[str, Asset]:
    """The generator and the classifiers; num_portraits: in the training set of the generator."""
    return {
        "auxiliary_classifiers": Asset(
            build=partial(build_classifiers, NUM_AUXILIARY_CLASSIFIERS),
            train=train_classifiers,
            weights_name=f"{RESULTS_NAME}_auxiliary_classifiers",
            batch_size=BATCH_SIZE,
            seed=1,
        ),
        "generator": Asset(
            build=build_generator,
            train=partial(train_generator, num_portraits),
            weights_name=f"{RESULTS_NAME}_generator",
            batch_size=BATCH_SIZE,
            options=asdict(TRAINER_OPTIONS) | {"auxiliary_weight": AUXILIARY_WEIGHT, "portraits": num_portraits},
            training_assets=("auxiliary_classifiers",),
        ),
        "classifier": Asset(build_classifier, train_classifiers, f"{RESULTS_NAME}_reader", BATCH_SIZE),
    }


def make_variant(model_class: type[ForwardDiffusion], space: str, novel_weight: float, num_portraits: int) -> Variant:
    """A model that inverts the generator; num_portraits: in the training set."""
    options = {"model_class": model_class.__name__, "space": space, "novel_weight": novel_weight}
    return Variant(
        build=partial(build_model, model_class, space, novel_weight),
        batches=partial(training_batches, num_portraits),
        batch_size=BATCH_SIZE,
        fit_options={"learning_rate": 1e-3, "checkpoint_every": 2000},
        options=options | {"portraits": num_portraits},
        contained_assets=("generator",),
    )


# --- evaluations ------------------------------------------------------------------------------------------------------


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


def evaluate_generator(session: Session) -> Results:
    """Generated images against rendered portraits."""
    generator = torch.Generator().manual_seed(2)
    fake = stylegan2.generate_images(session.model("generator"), session.options["images"], generator)
    _, real = render_people(session, 3)
    return Results(measures.compare_with_portraits(fake, real, session.model("classifier")), {})


def evaluate_deterministic(session: Session) -> Results:
    """The deterministic predictions; beside them the observed attributes and the true probabilities of the others."""
    test_set, prediction = session.test_set, session.predict("deterministic")
    labels = predict_labels(session.model("classifier"), prediction)
    arrays = {f"odds_{name}": p.float().numpy() for name, p in test_set.probabilities.items()}
    arrays |= {"deterministic": to_uint8(prediction[:NUM_EXAMPLES]), "deterministic_labels": labels.byte().numpy()}
    return Results({}, arrays | {"given": test_set.observed.numpy()})


def draw_samples(session: Session, sampler: str, test_set: TestSet, num_samples: int) -> Float[Tensor, "c k 3 h h"]:
    """Samples of one of SAMPLERS for the contexts of a test set."""
    variant, eta, num_targets = SAMPLERS[sampler]
    steps = session.options["steps"]
    return sample_posterior(session.model(variant), test_set, num_samples, steps, eta, num_targets=num_targets)


def evaluate_sampler(name: str, session: Session) -> Results:
    """The measures of one of SAMPLERS; of the main one also samples of the first images, drawn by themselves."""
    start_time = time.monotonic()
    samples = draw_samples(session, name, session.test_set, session.options["samples"])
    results = measure(name, session, samples, time.monotonic() - start_time)
    if name == MAIN_SAMPLER:
        results.arrays["live"] = to_uint8(draw_samples(session, name, session.test_set.first(NUM_REPRODUCED), 2))
    return results


def evaluate_optimisation(session: Session) -> Results:
    """The measures of latent codes that were optimised from random ones, for a quarter of the test set."""
    start_time, num_samples = time.monotonic(), session.options["samples"]
    forward_model = patches.CroppedGenerator(session.model("generator"))
    subset = session.test_set.first(session.options["portraits"] // 4)
    contexts = subset.context.repeat(num_samples).to(session.device)
    initial_latents = patches.sample_w(forward_model.G, len(contexts), torch.Generator().manual_seed(6))
    latents = patches.optimise_latents(forward_model, contexts, initial_latents)
    with torch.no_grad():
        samples = forward_model.G.synthesis(latents).unflatten(0, (-1, num_samples)).cpu()
    return measure("optimised", session, samples, time.monotonic() - start_time)


def measure(name: str, session: Session, samples: Float[Tensor, "c k 3 h h"], seconds: float) -> Results:
    """The measures of samples for the first images of the test set, their labels, and examples. seconds: of sampling"""
    n, classifier = len(samples), session.model("classifier")
    prediction = session.predict("deterministic")[:n]
    labels, prediction_labels = (predict_labels(classifier, images) for images in (samples, prediction))
    numbers = evaluate_samples(session.test_set.first(n), samples, prediction, labels, prediction_labels)
    numbers["seconds_a_sample"] = seconds / labels[..., 0].numel()
    return Results(numbers, {name: to_uint8(samples[:NUM_EXAMPLES, :2]), f"{name}_labels": labels.byte().numpy()})


def evaluate_reference_set(session: Session) -> Results:
    """The main sampler's samples for generated images, against the generator's posterior."""
    G, classifier, options = session.model("generator"), session.model("classifier"), session.options
    images = stylegan2.generate_images(G, options["portraits"] // 4, torch.Generator().manual_seed(4))
    references = stylegan2.generate_images(G, options["references"], torch.Generator().manual_seed(5))
    test_set = make_test_set(images.cpu())
    labels = predict_labels(classifier, draw_samples(session, MAIN_SAMPLER, test_set, 4 * options["samples"]))
    context, reference_labels = test_set.context.to(session.device), classifier.predict(references)
    return Results(measures.reference_agreement(context, labels, references, reference_labels), {})


def evaluate_schedule(scale: float, session: Session) -> Results:
    """The error that the sampler's finite steps cause alone, with ShiftedCosineSchedule(scale)."""
    people = portraits.sample_portraits(session.options["references"] // 5, torch.Generator().manual_seed(8))
    people, schedule, n = people.to(session.device), ShiftedCosineSchedule(scale), min(len(people), 2000)
    return Results(measures.sampler_discretization_error(people, schedule, n, session.options["steps"]), {})


def make_evaluations() -> dict[str, Evaluation]:
    """All evaluations, by their names."""
    classifier = ("classifier",)
    samplers = {
        name: Evaluation(partial(evaluate_sampler, name), variant, ("deterministic",), classifier)
        for name, (variant, _, _) in SAMPLERS.items()
    }
    return {
        "classifier": Evaluation(evaluate_classifier, "classifier"),
        "generator": Evaluation(evaluate_generator, "generator", assets=classifier),
        "deterministic": Evaluation(evaluate_deterministic, "deterministic", assets=classifier),
        **samplers,
        "optimised": Evaluation(evaluate_optimisation, "generator", ("deterministic",), classifier),
        "reference_set": Evaluation(evaluate_reference_set, SAMPLERS[MAIN_SAMPLER][0], assets=classifier),
        **{f"exact_{scale:g}": Evaluation(partial(evaluate_schedule, scale)) for scale in SCHEDULE_SCALES},
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
        variants={
            "w": make_variant(ForwardDiffusion, "w", 1.0, num_portraits),
            "wplus": make_variant(ForwardDiffusion, "w+", 1.0, num_portraits),
            "wplus_faint": make_variant(ForwardDiffusion, "w+", 0.1, num_portraits),
            "deterministic": make_variant(ForwardRegression, "w+", 1.0, num_portraits),
        },
        evaluations=make_evaluations(),
        make_test_set=lambda device, options: make_portrait_test_set(held_out_portraits(options["portraits"])),
        predict=sample_posterior,
        evaluation_options={
            "portraits": 256, "samples": NUM_SAMPLES, "steps": 32, "references": 20_000, "images": 10_000
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
