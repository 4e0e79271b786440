"""One look for every figure: a style, a small palette safe for colour-blind readers, and drawing helpers.

A colour means the same thing everywhere: what is TRUE, what was sampled (SAMPLES), what was observed
(CONTEXT), what is aimed at (TARGET), the deterministic BASELINE, a CONTROL that must fail, and MUTED for
what only sets the scene. Helpers draw on axes or return arrays; they never show or save.
"""

import math
from collections.abc import Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

TRUE = "#4a4a4a"  # grey
SAMPLES = "#0072b2"  # blue
CONTEXT = "#d55e00"  # vermilion
TARGET = "#009e73"  # green
BASELINE = "#cc79a7"  # pink
CONTROL = "#e69f00"  # amber
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
    "axes.prop_cycle": mpl.cycler(color=[SAMPLES, CONTEXT, TARGET, BASELINE, CONTROL, TRUE]),
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


def style() -> None:
    """Give all later figures the repository's look: readable at notebook width, saved at 150 dpi."""
    mpl.rcParams.update(STYLE)


def image_grid(
    images: Shaped[Array, "rows cols h w *rgb"],
    row_labels: Sequence[str] | None = None,
    col_titles: Sequence[str] | None = None,
    *,
    vmin: float | None = None,
    vmax: float | None = None,
    cmap: str = "gray",
    size: float = 1.1,
) -> Figure:
    """A table of images, rows labelled on the left and columns above.

    images: (rows, cols, h, w) drawn with `cmap`, or (rows, cols, h, w, 3) as RGB, clipped to [0, 1].
    vmin, vmax: grey levels of the ends of the map, by default the extremes of all images together, so that
    pictures of one table can be compared. A picture that is NaN everywhere leaves its place empty.
    size: height of one picture in inches.
    Raises ValueError where the shape or a number of labels does not fit, or no image has a finite value.
    """
    images = to_numpy(images)
    if images.ndim not in (4, 5) or (images.ndim == 5 and images.shape[-1] != 3):
        raise ValueError(f"images have shape {images.shape}: give (rows, cols, h, w[, 3])")
    rows, cols, h, w = images.shape[:4]
    for name, labels, count in (("row_labels", row_labels, rows), ("col_titles", col_titles, cols)):
        if labels is not None and len(labels) != count:
            raise ValueError(f"{name} has {len(labels)} entries for {count} of them: give one each")
    if not np.isfinite(images).any():
        raise ValueError("images hold no finite value: give at least one picture")
    if images.ndim == 5:
        images = np.clip(images, 0, 1) if images.dtype.kind == "f" else images
    else:
        vmin = float(np.nanmin(images)) if vmin is None else vmin
        vmax = float(np.nanmax(images)) if vmax is None else vmax

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
            ax.imshow(images[r, c], cmap=cmap, vmin=vmin, vmax=vmax)
        if r == 0 and col_titles:
            ax.set_title(col_titles[c], loc="center", fontsize=9)
        if c == 0 and row_labels:
            ax.set_ylabel(row_labels[r], rotation=0, ha="right", va="center", fontsize=9)
    return fig


def flow_to_rgb(
    flow: Float[Array, "*b h w 2"], largest: float | None = None
) -> Float[np.ndarray, "*b h w 3"]:
    """Colour a field of 2-D vectors: hue is direction, colour deepens with length, white stands still.

    flow: (..., h, w, 2), x to the right and y down, any unit.
    largest: length at which the colour is full, by default the longest vector; longer ones keep that colour.
    Returns RGB in [0, 1]. Raises ValueError where the last axis is not 2 or `largest` is not positive.
    """
    flow = to_numpy(flow)
    if flow.ndim < 3 or flow.shape[-1] != 2:
        raise ValueError(f"flow has shape {flow.shape}: give (..., h, w, 2)")
    if largest is not None and not largest > 0:
        raise ValueError(f"largest is {largest}: give a positive length")
    length = np.hypot(flow[..., 0], flow[..., 1])
    largest = largest or float(length.max()) or 1.0  # a field that is zero everywhere is white
    hue = np.arctan2(flow[..., 1], flow[..., 0]) / (2 * math.pi) % 1.0
    full = mpl.colors.hsv_to_rgb(np.stack([hue, np.ones_like(hue), np.full_like(hue, 0.9)], -1))
    strength = np.clip(length / largest, 0, 1)[..., None]
    return 1 - strength * (1 - full)


def flow_wheel(size: int = 65) -> Float[np.ndarray, "size size 3"]:
    """The key to `flow_to_rgb`: a disc, each point in the colour of the vector that leads to it."""
    axis = np.linspace(-1, 1, size)
    x, y = np.meshgrid(axis, axis)
    rgb = flow_to_rgb(np.stack([x, y], -1), largest=1.0)
    rgb[np.hypot(x, y) > 1] = 1.0
    return rgb


def depth_to_rgb(
    depth: Float[Array, "*b h w"], near: float | None = None, far: float | None = None
) -> Float[np.ndarray, "*b h w 3"]:
    """Colour distances: near is bright, far is dark, and what has no finite distance is white.

    depth: (..., h, w) in scene units; near, far: ends of the scale, by default the extremes of `depth`.
    Returns RGB in [0, 1]. Raises ValueError where near is beyond far, or nothing finite gives an end.
    """
    depth = to_numpy(depth)
    known = np.isfinite(depth)
    if (near is None or far is None) and not known.any():
        raise ValueError("depth holds no finite value: give near and far")
    near = float(depth[known].min()) if near is None else near
    far = float(depth[known].max()) if far is None else far
    if near > far:
        raise ValueError(f"near is {near} and far is {far}: give near below far")
    closeness = 1 - np.clip((np.where(known, depth, near) - near) / ((far - near) or 1.0), 0, 1)
    rgb = mpl.colormaps["cividis"](closeness)[..., :3]
    rgb[~known] = 1.0
    return rgb


def frames_from_figure(fig: Figure) -> UInt8[np.ndarray, "H W 3"]:
    """The figure as pixels at its own dpi, (H, W, 3) uint8: one frame of a moving picture."""
    canvas = FigureCanvasAgg(fig)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def plane(ax: Axes, limit: float, *, ticks: bool = False) -> Axes:
    """Make `ax` a square window [-limit, limit]^2 on the plane with equal scales, and return it."""
    ax.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
    ax.grid(ticks)
    if not ticks:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    return ax


def to_numpy(array: Array) -> np.ndarray:
    """A tensor on any device, or an array, as a numpy array; half precision becomes single."""
    if isinstance(array, Tensor):
        array = array.detach().cpu()
        array = array.float() if array.dtype in (torch.float16, torch.bfloat16) else array
        return array.numpy()
    return np.asarray(array)
