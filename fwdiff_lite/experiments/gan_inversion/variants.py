"""The assets and the variants of 04_gan_inversion."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial

import torch
from torch import nn

from fwdiff_lite.diffusion import ForwardDiffusion, ForwardRegression
from fwdiff_lite.experiments.declaration import Asset, Training, Variant
from fwdiff_lite.problems.gan_inversion import patches, portraits, stylegan2, stylegan2_training
from fwdiff_lite.protocols import BatchFunction
from fwdiff_lite.storage.files import atomic_write
from fwdiff_lite.training import TrainingLog

RESULTS_NAME = "04_gan_inversion"
NUM_PORTRAITS = 2**17  # in the training set
MAPPING_BATCH_SIZE = 256  # its gradient is small beside the noise of a batch
BATCH_SIZE = 64  # many small steps serve a generator better than few large ones
NUM_AUXILIARY_CLASSIFIERS = 3  # with a single one, the generator learnt to deceive it about one mouth in ten
NUM_AUXILIARY_IMAGES = 10_000  # of the training set, whose attributes the auxiliary loss matches
WIDE_ENCODER_SIZES = {"widths": (96, 128, 192, 192), "num_blocks": 2, "hidden": 448}  # 14.7 MB in half precision
WEIGHTED_RECIPE = {"scale": 1 / 8, "muon_learning_rate": 2e-3, "low_noise_weight": 4.0} | WIDE_ENCODER_SIZES
RECIPE = WEIGHTED_RECIPE | {"num_refinements": 1}  # of all variants: arguments of `make_variant`
SWEEP = {  # other recipes of "wplus": four simpler ones, and one more
    "wplus_plain": {"scale": patches.SCHEDULE.scale},
    "wplus_muon": {"scale": 1 / 8, "muon_learning_rate": 2e-3},
    "wplus_wide": {"scale": 1 / 8, "muon_learning_rate": 2e-3} | WIDE_ENCODER_SIZES,
    "wplus_weighted": WEIGHTED_RECIPE,
    "wplus_low_noise": RECIPE | {"training_scale": 1 / 2},
}
MAX_CONTEXT_PATCHES = 5  # in the training of a variant: the given patch, and sampled targets


@dataclass(frozen=True)
class GeneratorRecipe:
    """How a generator is trained.

    auxiliary_weight: factor of the auxiliary loss; 0: the training needs no classifiers
    mapping_steps: of the mapping alone on the auxiliary loss, at the end (stylegan2_training.train_mapping), with
        MAPPING_BATCH_SIZE images each; at most a tenth of the steps before
    mapping_frequency_weight: see portraits.AttributeMomentLoss; in these steps only
    sizes: arguments of the generator that replace those of stylegan2.SMALL_GENERATOR
    discriminator_sizes: arguments of the discriminator that replace those of the generator; see stylegan2.Discriminator
    """

    trainer: stylegan2_training.TrainerOptions
    auxiliary_weight: float = 1.0
    mapping_steps: int = 0
    mapping_frequency_weight: float = 0.0
    sizes: Mapping[str, int] = field(default_factory=dict)
    discriminator_sizes: Mapping[str, int] = field(default_factory=dict)


# Of ADA's configuration for CIFAR-10, but for r1_gamma (0.01 there) and the average of the weights. Without the
# auxiliary loss, the probability of one attribute was 34 points off
GENERATOR_OPTIONS = stylegan2_training.TrainerOptions(
    learning_rate=2.5e-3,
    r1_gamma=0.02,
    mixing_probability=0.0,
    ema_half_life=200_000,
    auxiliary_interval=4,
    compile=True,
)
GENERATOR = GeneratorRecipe(
    GENERATOR_OPTIONS,
    auxiliary_weight=4.0,
    mapping_steps=2000,
    mapping_frequency_weight=10.0,
    sizes={"mapping_layers": 2},
    discriminator_sizes={"group_size": 32},
)


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


def train_generator(
    num_portraits: int, recipe: GeneratorRecipe, G: stylegan2.Generator, training: Training
) -> TrainingLog:
    """Trains the generator with a discriminator; at the end it holds the EMA of its weights. A GPU alone compiles."""
    device = training.device
    sample_images = portraits.make_image_sampler(num_portraits, device)
    shared = {key: stylegan2.SMALL_GENERATOR[key] for key in ("resolution", "channel_base", "channel_max")}
    D = stylegan2.Discriminator(**shared | recipe.discriminator_sizes)
    options = replace(recipe.trainer, compile=recipe.trainer.compile and device.type == "cuda")
    trainer = stylegan2_training.StyleGAN2Trainer(G.to(device), D.to(device), options)
    if recipe.auxiliary_weight:
        real = sample_images(min(NUM_AUXILIARY_IMAGES, num_portraits), torch.Generator().manual_seed(0))
        real = trainer.augment_for_D(real, torch.Generator(device).manual_seed(0))
        classifiers = training.assets["auxiliary_classifiers"]
        make_loss = partial(portraits.AttributeMomentLoss, classifiers, real, recipe.auxiliary_weight)
        trainer.auxiliary_loss = make_loss()
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
    if mapping_steps := min(recipe.mapping_steps, log.steps // 10):
        start_time, loss = time.monotonic(), make_loss(frequency_weight=recipe.mapping_frequency_weight)
        log.curve["mapping"] = stylegan2_training.train_mapping(
            G, loss, MAPPING_BATCH_SIZE, steps=mapping_steps, seed=training.seed
        )
        log.seconds += time.monotonic() - start_time
    return log


def build_model(
    model_class: type[ForwardDiffusion],
    space: str,
    novel_weight: float,
    generator: stylegan2.Generator,
    seed: int = 0,
    side: int | None = None,
    scale: float = patches.SCHEDULE.scale,
    training_scale: float | None = None,
    **denoiser_options,
) -> ForwardDiffusion:
    """A model of the latent codes in "w" or "w+", with initial weights.

    novel_weight: of Eq. 9; side: of the images
    scale, training_scale: of the noise schedule, see `patches.schedule_of_side`
    denoiser_options: of patches.PatchDenoiser
    """
    torch.manual_seed(seed)
    forward_model = patches.CroppedGenerator(generator, side)
    denoiser = patches.PatchDenoiser(forward_model, patches.w_std(generator), space, **denoiser_options)
    schedule = patches.schedule_of_side(forward_model.side, scale, training_scale)
    return model_class(denoiser, forward_model, schedule, novel_weight=novel_weight)


def training_batches(num_portraits: int, device: torch.device, batch_size: int) -> BatchFunction:
    """Batches of patches of the training set, on the device."""
    sample_images = portraits.make_image_sampler(num_portraits, device)
    return patches.batches(sample_images, batch_size, MAX_CONTEXT_PATCHES)


def make_generator(name: str, recipe: GeneratorRecipe, num_portraits: int) -> Asset:
    """A generator by a recipe; num_portraits: in its training set."""
    sizes = {key: dict(value) for key in ("sizes", "discriminator_sizes") if (value := getattr(recipe, key))}
    options = asdict(recipe.trainer) | {"auxiliary_weight": recipe.auxiliary_weight, "portraits": num_portraits}
    mapping = {key: getattr(recipe, key) for key in ("mapping_steps", "mapping_frequency_weight")}
    options |= mapping if recipe.mapping_steps else {}
    return Asset(
        build=partial(build_generator, **recipe.sizes),
        train=partial(train_generator, num_portraits, recipe),
        weights_name=f"{RESULTS_NAME}_{name}",
        batch_size=BATCH_SIZE,
        options=options | sizes,
        training_assets=("auxiliary_classifiers",) if recipe.auxiliary_weight else (),
    )


def make_assets(num_portraits: int) -> dict[str, Asset]:
    """The generators and the classifiers; num_portraits: in the training set of a generator."""
    return {
        "auxiliary_classifiers": Asset(
            build=partial(build_classifiers, NUM_AUXILIARY_CLASSIFIERS),
            train=train_classifiers,
            weights_name=f"{RESULTS_NAME}_auxiliary_classifiers",
            batch_size=BATCH_SIZE,
            seed=1,
        ),
        "generator": make_generator("generator", GENERATOR, num_portraits),
        "classifier": Asset(build_classifier, train_classifiers, f"{RESULTS_NAME}_reader", BATCH_SIZE),
    }


def make_variant(
    model_class: type[ForwardDiffusion],
    space: str,
    novel_weight: float,
    num_portraits: int,
    muon_learning_rate: float | None = None,
    **build_options,
) -> Variant:
    """A model that inverts the generator; num_portraits: in the training set; build_options: of `build_model`."""
    options = {"model_class": model_class.__name__, "space": space, "novel_weight": novel_weight}
    muon = {"muon_learning_rate": muon_learning_rate} if muon_learning_rate else {}
    return Variant(
        build=partial(build_model, model_class, space, novel_weight, **build_options),
        batches=partial(training_batches, num_portraits),
        batch_size=BATCH_SIZE,
        fit_options={"learning_rate": 1e-3, "checkpoint_every": 2000} | muon,
        options=options | {"portraits": num_portraits} | build_options | muon,
        contained_assets=("generator",),
    )


def make_variants(num_portraits: int) -> dict[str, Variant]:
    """All variants. Those of SWEEP change the recipe of `wplus`, each by one more step than the one before."""
    settings = {
        "w": (ForwardDiffusion, "w", 1.0),
        "wplus": (ForwardDiffusion, "w+", 1.0),
        "wplus_faint": (ForwardDiffusion, "w+", 0.1),
        "deterministic": (ForwardRegression, "w+", 1.0),
    }
    recipes = {name: ("wplus", options) for name, options in SWEEP.items()}
    recipes = {name: (name, RECIPE) for name in settings} | recipes
    return {name: make_variant(*settings[base], num_portraits, **recipe) for name, (base, recipe) in recipes.items()}
