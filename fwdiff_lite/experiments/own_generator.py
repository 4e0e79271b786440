"""GAN inversion with a generator and with images of your own.

    python -m fwdiff_lite.experiments own_generator train wplus deterministic --minutes 60 \\
        --generator GENERATOR.pkl --images FOLDER
    python -m fwdiff_lite.experiments own_generator evaluate --generator GENERATOR.pkl --images HELD_OUT

--generator is any file that `stylegan2_weights.load_published_generator` reads. The images are cropped to squares,
resized, and read from the folder while the training runs. --resolution is their side; it divides the generator's, and
is the generator's by default. Crops are the same share of an image at every resolution, and the noise schedule is
shifted with it. The noise inputs of the generator are constant, and its styles are not truncated, as in
04_gan_inversion.

An evaluation has no attributes of images: it measures agreement with the context, diversity, the energy ratio to the
deterministic prediction, and spread over error. It writes a figure of examples.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from jaxtyping import Float
from torch import Tensor

from fwdiff_lite.colours import to_uint8
from fwdiff_lite.command_line import positive_int
from fwdiff_lite.datasets.image_folder import ImageFolder
from fwdiff_lite.diffusion import ForwardDiffusion, ForwardRegression
from fwdiff_lite.experiments.declaration import Evaluation, Experiment, Results, Variant
from fwdiff_lite.experiments.gan_inversion.samples import TestSet, evaluate_images, make_test_set, sample_posterior
from fwdiff_lite.experiments.gan_inversion.variants import BATCH_SIZE, MAX_CONTEXT_PATCHES, build_model
from fwdiff_lite.experiments.harness import Session
from fwdiff_lite.experiments.records import changed_settings
from fwdiff_lite.observations import to_device
from fwdiff_lite.plotting import image_grid
from fwdiff_lite.problems.gan_inversion import patches
from fwdiff_lite.problems.gan_inversion.stylegan2 import Generator
from fwdiff_lite.problems.gan_inversion.stylegan2_weights import load_published_generator
from fwdiff_lite.protocols import BatchFunction
from fwdiff_lite.storage.files import file_sha256, read_json

NUM_SAMPLES, NUM_EXAMPLES = 4, 6  # samples of each image; images in the figure
CHUNK_SIZE = 256  # images that a generator of patches.SIDE pixels renders at once
SPACES = {"w": (ForwardDiffusion, "w"), "wplus": (ForwardDiffusion, "w+"), "deterministic": (ForwardRegression, "w+")}
EVALUATED = ("w", "wplus")  # the deterministic model is their baseline


def build_on_file(load: Callable[[], Generator], variant: str, side: int, seed: int = 0, **options) -> ForwardDiffusion:
    """The model of a variant around the generator that `load` reads, with initial weights."""
    model_class, space = SPACES[variant]
    return build_model(model_class, space, 1.0, load(), seed, side, **options)


def image_batches(images: ImageFolder, device: torch.device, batch_size: int) -> BatchFunction:
    """Batches of patches of images, which are read from their files for each batch."""
    return patches.batches(
        lambda n, generator: to_device(images.sample(n, generator), device), batch_size, MAX_CONTEXT_PATCHES
    )


def needs_files(*_: Any) -> Any:
    """The generator or the batches of an experiment that `configure` has not given files. ValueError always."""
    raise ValueError("this experiment needs a generator and images: give --generator and --images")


def make_variant(
    name: str,
    load: Callable[[], Generator],
    side: int,
    batches: Callable[[torch.device, int], BatchFunction] = needs_files,
    options: dict | None = None,
) -> Variant:
    """A model that inverts the generator."""
    model_class, space = SPACES[name]
    return Variant(
        build=partial(build_on_file, load, name, side),
        batches=batches,
        batch_size=BATCH_SIZE,
        fit_options={"learning_rate": 1e-3, "checkpoint_every": 2000},
        options={"model_class": model_class.__name__, "space": space} | (options or {}),
    )


def add_arguments(action: str, parser: ArgumentParser) -> None:
    """Adds the files of the generator and of the images."""
    parser.add_argument("--generator", type=Path, required=True, help="a file of a StyleGAN2")
    parser.add_argument("--images", type=Path, required=True, help="a folder of images, or a zip archive of it")
    parser.add_argument("--resolution", type=positive_int, help="pixels along a side; default: the generator's")
    parser.add_argument("--conv-clamp", type=float, help="of the generator, where its file does not state it")


def configure(experiment: Experiment, options: Namespace) -> Experiment:
    """The experiment on the files that the command names. ValueError if they cannot be used."""
    generator = load_published_generator(options.generator, options.conv_clamp)
    side = options.resolution or generator.synthesis.resolutions[-1]
    patches.CroppedGenerator(generator, side)  # refuses a side that does not divide the generator's
    if side < 16 or side & (side - 1):
        raise ValueError(f"--resolution is {side}: give a power of two, 16 or more")
    images, count = ImageFolder(options.images, side), getattr(options, "count", None)  # of an evaluation
    settings = {
        "generator": file_sha256(options.generator),
        "side": side,
        "conv_clamp": generator.synthesis.b4.conv1.clamp,  # that of the argument or of the file
    }
    check_trained_models(experiment, options, settings)
    if options.action == "evaluate":
        check_counts(len(images), options)
    images.check(count)  # before hours of training: a training that meets a wrong image ends
    print(f"{options.generator}: {generator.synthesis.resolutions[-1]} pixels; {options.images}: {len(images)} images")

    def load() -> Generator:
        return generator

    arguments = {"generator": options.generator.name, "images": options.images.resolve().name, "resolution": side}
    arguments |= {"conv_clamp": options.conv_clamp} if options.conv_clamp else {}
    if options.action == "train":
        batches = partial(image_batches, images)
        variants = {name: make_variant(name, load, side, batches, settings) for name in experiment.variants}
        return replace(experiment, variants=variants, arguments=arguments)
    return replace(
        experiment,
        variants={name: make_variant(name, load, side) for name in experiment.variants},
        arguments=arguments,
        settings=settings | {"images": images.sha256(count)},
        make_test_set=lambda device, sizes: make_test_set(first_images(images, sizes["count"])),
    )


def check_trained_models(experiment: Experiment, options: Namespace, settings: dict[str, Any]) -> None:
    """ValueError if a model in the folder has other settings. A training checks the models that it trains itself."""
    trained_now = options.names if options.action == "train" else ()
    for name in (name for name in experiment.variants if name not in trained_now):
        trained = read_json(options.out / f"{name}.json").get("options", {})
        if trained and (changed := changed_settings({key: trained.get(key) for key in settings}, settings)):
            raise ValueError(f"{options.out}/{name} was trained with {changed}: give the same, or name another --out")


def check_counts(num_images: int, options: Namespace) -> None:
    """ValueError, before the sampling, if the measures need more images or more samples."""
    for given, text in ((num_images, f"{options.images} holds {num_images} images"),
                        (options.count, f"--count is {options.count}"),
                        (options.samples, f"--samples is {options.samples}")):  # fmt: skip
        if given < 2:
            raise ValueError(f"{text}: wanted at least 2, since the measures compare them")


def first_images(images: ImageFolder, count: int) -> Float[Tensor, "c 3 h h"]:
    """The first images of a folder, as many as there are."""
    return torch.stack([images[i] for i in range(min(count, len(images)))])


def sample(
    model: ForwardDiffusion, test_set: TestSet, num_samples: int = NUM_SAMPLES, steps: int = 32
) -> Float[Tensor, "c k 3 h h"]:
    """Samples for a test set. A large generator renders few images at once: its layers fill the memory."""
    resolution = model.forward_model.G.synthesis.resolutions[-1]
    chunk_size = max(1, CHUNK_SIZE * patches.SIDE // resolution)
    return sample_posterior(model, test_set, num_samples, steps, eta=1.0, chunk_size=chunk_size)


def evaluate_variant(name: str, session: Session) -> Results:
    """The measures of a variant's samples. Writes a figure of examples."""
    options, test_set = session.options, session.test_set
    samples = sample(session.model(name), test_set, options["samples"], options["steps"])
    prediction = session.predict("deterministic")
    shown = slice(NUM_EXAMPLES)
    columns = [test_set.images[shown, None], test_set.context.value[shown, :1], prediction[shown], samples[shown, :3]]
    titles = ["image", "context", "deterministic", *["sample"] * min(3, samples.shape[1])]
    grid = image_grid(to_uint8(torch.cat(columns, 1).movedim(2, -1)), col_titles=titles)
    grid.savefig(session.folder / f"evaluation_{name}.png")
    plt.close(grid)  # else a notebook would show it
    generator = torch.Generator().manual_seed(0)
    return Results(evaluate_images(test_set, samples, prediction, generator), {})


EXPERIMENT = Experiment(
    name="own_generator",
    results_name="own_generator",
    variants={name: make_variant(name, needs_files, patches.SIDE) for name in SPACES},
    evaluations={name: Evaluation(partial(evaluate_variant, name), name, ("deterministic",)) for name in EVALUATED},
    predict=sample,
    evaluation_options={"count": 256, "samples": NUM_SAMPLES, "steps": 32},
    headline=("patch_psnr", "diversity_outside_over_inside", "energy_ratio", "spread_skill"),
    add_arguments=add_arguments,
    configure=configure,
)
