"""The experiments with 3-D scenes: 06_inverse_graphics, its ablations, and clips of the reader's own."""

from fwdiff_lite.experiments.inverse_graphics.evaluation import EXPERIMENT

__all__ = ["EXPERIMENT"]
