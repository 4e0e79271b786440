"""The experiment of 04_gan_inversion."""

from fwdiff_lite.experiments.gan_inversion.evaluation import (
    EXPERIMENT,
    MAIN_SAMPLER,
    SAMPLERS,
    SCHEDULE_SCALES,
    make_experiment,
)
from fwdiff_lite.experiments.gan_inversion.samples import held_out_portraits, make_test_set

__all__ = [
    "EXPERIMENT",
    "MAIN_SAMPLER",
    "SAMPLERS",
    "SCHEDULE_SCALES",
    "held_out_portraits",
    "make_experiment",
    "make_test_set",
]
