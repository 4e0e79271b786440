"""Plotting: one style, a small palette for colour-blind readers too, image grids, and colours of flows and depths.

A colour has the same meaning in every figure: the TRUE signal or distribution, SAMPLES of a model (with DDIM, if two
samplers are compared), samples with ANCESTRAL sampling, the CONTEXT observation, the TARGET, the NOVEL observation,
the deterministic BASELINE (or a conditional mean), a CONTROL that must fail, and MUTED for the background. OTHER is for
all else that needs a colour: a further method, a verdict, a part of a drawing. The functions draw on axes or return
arrays; none of them shows or saves a figure.
"""

import math
from collections.abc import Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from fwdiff_lite.checks import check_count, check_positive

TRUE = "#4a4a4a"  # grey
SAMPLES = "#0072b2"  # blue
CONTEXT = "#d55e00"  # vermilion
TARGET = "#009e73"  # green
BASELINE = "#cc79a7"  # pink
NOVEL = "#e69f00"  # amber
CONTROL = "#8c6d31"  # brown
OTHER = "#6a51a3"  # purple
DDIM = SAMPLES  # eta = 0
ANCESTRAL = "#56b4e9"  # sky blue; eta = 1
MUTED = "#c4c4c4"  # light grey

Array = np.ndarray | Tensor

STYLE = {
    "figure.constrained_layout.use": True,
    "figure.dpi": 100,
    "figure.figsize": (7.5, 4.0),
    "figure.titlesize": 12,
    "savefig.dpi": 150,
    "savefig.facecolor": "white",
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "axes.titlelocation": "left",
    "axes.titlepad": 6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#808080",
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.prop_cycle": mpl.cycler(color=[SAMPLES, CONTEXT, TARGET, BASELINE, NOVEL, TRUE]),
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.7,
    "xtick.color": "#808080",
    "ytick.color": "#808080",
    "xtick.labelcolor": "#303030",
    "ytick.labelcolor": "#303030",
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "image.cmap": "gray",
    "image.interpolation": "nearest",
}


def set_style() -> None:
    """Sets the style of all later figures: readable at the width of a notebook, saved at 150 dpi."""
    mpl.rcParams.update(STYLE)


def image_grid(
    images: Shaped[Array, "rows cols h w *rgb"],
    row_labels: Sequence[str] | None = None,
    col_titles: Sequence[str] | None = None,
    *,
    size: float = 1.1,
) -> Figure:
    """A figure with a grid of images, with labels at the left of the rows and titles above the columns.

    images: (rows, cols, h, w) drawn in grey, from black at the minimum of all images to white at their maximum, or
        (rows, cols, h, w, 3) as RGB, clipped to [0, 1]. The place of an image that is NaN everywhere stays empty.
    size: height of one image in inches
    ValueError if the shape or the number of labels does not fit, or no image has a finite value.
    """
    images = to_numpy(images)
    check_positive(size=size)
    if images.ndim not in (4, 5) or 0 in images.shape or (images.ndim == 5 and images.shape[-1] != 3):
        raise ValueError(f"images have shape {images.shape}: give (rows, cols, h, w[, 3])")
    rows, cols, h, w = images.shape[:4]
    for name, labels, count in (("row_labels", row_labels, rows), ("col_titles", col_titles, cols)):
        if labels is not None and len(labels) != count:
            raise ValueError(f"{name} has {len(labels)} entries, wanted {count}: give one for each row and column")
    if not np.isfinite(images).any():
        raise ValueError("images hold no finite value: give at least one image")
    if images.ndim == 5 and np.issubdtype(images.dtype, np.floating):
        images = np.clip(images, 0, 1)
    vmin, vmax = np.nanmin(images), np.nanmax(images)  # of grey images only: matplotlib ignores them for RGB

    left = 0.1 + 0.075 * max(len(label) for label in row_labels) if row_labels else 0.0
    figsize = (cols * size * w / h + left, rows * size + (0.3 if col_titles else 0.0))
    fig, axes = plt.subplots(rows, cols, figsize=figsize, squeeze=False, layout="constrained")
    fig.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.02)
    for r, c in np.ndindex(rows, cols):
        ax = axes[r, c]
        ax.set(xticks=[], yticks=[])
        ax.grid(False)
        ax.spines[:].set_visible(False)
        if np.isfinite(images[r, c]).any():
            ax.imshow(images[r, c], cmap="gray", vmin=vmin, vmax=vmax)
        if r == 0 and col_titles:
            ax.set_title(col_titles[c], loc="center", fontsize=9)
        if c == 0 and row_labels:
            ax.set_ylabel(row_labels[r], rotation=0, ha="right", va="center", fontsize=9)
    return fig


def flow_to_rgb(flow: Float[Array, "*b h w 2"], max_length: float | None = None) -> Float[np.ndarray, "*b h w 3"]:
    """RGB colours in [0, 1] of a field of 2-D vectors: the hue is the direction, the saturation grows with the length.

    flow: (..., h, w, 2), x to the right and y down, in any unit. A zero vector is white.
    max_length: the length of full saturation; default: that of the longest vector. Longer vectors have the same colour.
    ValueError if the last axis is not 2, or `max_length` is not positive.
    """
    flow = to_numpy(flow)
    if flow.ndim < 3 or flow.shape[-1] != 2:
        raise ValueError(f"flow has shape {flow.shape}: give (..., h, w, 2)")
    if max_length is not None:
        check_positive(max_length=max_length)
    if not np.isfinite(flow).all():
        raise ValueError(f"flow holds {int((~np.isfinite(flow)).sum())} NaN or infinite values: no colour shows them")
    length = np.hypot(flow[..., 0], flow[..., 1])
    max_length = max_length or float(length.max()) or 1.0  # a field that is zero everywhere is white
    hue = np.arctan2(flow[..., 1], flow[..., 0]) / (2 * math.pi) % 1.0
    saturated = mpl.colors.hsv_to_rgb(np.stack([hue, np.ones_like(hue), np.full_like(hue, 0.9)], -1))
    saturation = np.clip(length / max_length, 0, 1)[..., None]
    return 1 - saturation * (1 - saturated)


def flow_wheel(size: int = 65) -> Float[np.ndarray, "size size 3"]:
    """The legend of `flow_to_rgb`: a disc, with each point in the colour of the vector from the centre to it."""
    check_count(size=size)
    axis = np.linspace(-1, 1, size)
    x, y = np.meshgrid(axis, axis)
    rgb = flow_to_rgb(np.stack([x, y], -1), max_length=1.0)
    rgb[np.hypot(x, y) > 1] = 1.0
    return rgb


def depth_to_rgb(
    depth: Float[Array, "*b h w"], near: float | None = None, far: float | None = None
) -> Float[np.ndarray, "*b h w 3"]:
    """RGB colours in [0, 1] of a depth map: near is bright, far is dark, a depth that is not finite is white.

    depth: (..., h, w) in scene units; near, far: the ends of the scale, by default the extremes of `depth`
    ValueError if near is larger than far, or if a default is needed and no depth is finite.
    """
    depth = to_numpy(depth)
    if depth.ndim < 2:
        raise ValueError(f"depth has shape {depth.shape}: give (..., h, w)")
    finite = np.isfinite(depth)
    if (near is None or far is None) and not finite.any():
        raise ValueError("depth holds no finite value: give near and far")
    near = float(depth[finite].min()) if near is None else near
    far = float(depth[finite].max()) if far is None else far
    if not near <= far:
        raise ValueError(f"near is {near} and far is {far}: give near below far")
    brightness = 1 - np.clip((np.where(finite, depth, near) - near) / ((far - near) or 1.0), 0, 1)
    rgb = mpl.colormaps["cividis"](brightness)[..., :3]
    rgb[~finite] = 1.0
    return rgb


def figure_to_rgb(fig: Figure) -> UInt8[np.ndarray, "H W 3"]:
    """The pixels of a figure at its own dpi, (H, W, 3) uint8: one frame of an animation."""
    if not isinstance(fig, Figure):
        raise ValueError(f"fig is a {type(fig).__name__}, wanted a matplotlib Figure")
    canvas = FigureCanvasAgg(fig)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def to_numpy(array: Array) -> np.ndarray:
    """A tensor on any device, or an array, as a numpy array; half precision becomes single precision.

    ValueError if it does not hold real numbers.
    """
    if isinstance(array, Tensor):
        array = array.detach().cpu()
        array = array.float() if array.dtype in (torch.float16, torch.bfloat16) else array
        array = array.numpy()
    array = np.asarray(array)
    if not (np.issubdtype(array.dtype, np.number) or array.dtype == bool) or np.iscomplexobj(array):
        raise ValueError(f"got {type(array).__name__} of {array.dtype}, wanted real numbers: bool, integer or floating")
    return array
