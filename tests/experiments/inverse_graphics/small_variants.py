"""Variants of toy size, shared by the tests of this folder."""

from dataclasses import replace
from functools import partial

from fwdiff_lite.experiments.declaration import Experiment, Variant
from fwdiff_lite.experiments.inverse_graphics import variants

NETWORK = {"width": 16, "samples_per_ray": 8}
DECLARED = variants.VARIANTS | variants.SUPERSAMPLED_VARIANTS
ENCODERS = {"unet": {"widths": (8, 16)}, "dit": {"depth": 1, "heads": 2}}


def small_variant(name: str, side: int = 16, **options) -> Variant:
    """A variant with small images, few rays and a small network; options: of build_model."""
    declared = DECLARED[name]
    (settings,) = declared.build.args
    settings = replace(settings, side=side, pixels=settings.pixels and 16)
    options = dict(declared.build.keywords) | NETWORK | ENCODERS[settings.encoder] | options
    variant = variants.make_variant(settings, declared.seed)
    return replace(variant, build=partial(variant.build, **options), batch_size=2)


def small_experiment(experiment: Experiment, **options) -> Experiment:
    """An experiment with small variants, and the evaluations that use no others; options: of small_variant."""
    small = {name: small_variant(name, **options) for name in experiment.variants if name in DECLARED}
    evaluations = {name: x for name, x in experiment.evaluations.items() if {x.variant, *x.baselines} <= {"", *small}}
    return replace(experiment, variants=small, evaluations=evaluations)
