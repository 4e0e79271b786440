"""Motion from a single image, by warping (section 4.2).

The signal S is a source image with a flow over its pixels: a displacement in pixels for one unit of time. The flow is
never observed. An observation is another frame of the same motion,

    O = forward(S; tau) = the source image, warped by tau * flow,

so the source image itself is the observation at tau = 0. It is the context; a later frame is the target.

There are two forward models. `BackwardWarp` computes, for each pixel of the frame, where in the source its colour comes
from. `SoftmaxSplat` moves each pixel of the source to its place in the frame (Niklaus and Liu 2020). Both can blend K
flows. With one flow, no frame shows an object half at one place and half at another, so no signal has the mean of two
motions as its frame. With two flows, a signal does.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fwdiff_lite.backbones import UNet
from fwdiff_lite.checks import check_count, check_positive, check_shape, format_shape
from fwdiff_lite.diffusion import ForwardDiffusion
from fwdiff_lite.observations import Observations, check_single_target
from fwdiff_lite.schedule import ShiftedCosineSchedule

IMAGE_SIZE = 64  # pixels along a side of a frame
FLOW_SCALE = 8.0  # pixels: the unit of the network's flow outputs
VISIBILITY_EPSILON = 1e-3  # added to the visibility of a pixel, so that an invisible pixel has a displacement too
SCHEDULE = ShiftedCosineSchedule(0.25)  # the direction of motion shows in hundreds of pixels, so even under much noise


class MotionSignal(NamedTuple):
    """The signal: B source images in [-1, 1], each with K flows.

    source:        (B, 3, H, W)
    flows:         (B, K, 2, H, W) displacements (x to the right, y down) in pixels at tau = 1
    blend_weights: (B, K, H, W) the weight of each flow at each pixel of a frame; the sum over K is 1
    importance:    (B, 1, H, W) which pixel covers the other where several arrive at one place; only for splatting
    """

    source: Float[Tensor, "b 3 h w"]
    flows: Float[Tensor, "b k 2 h w"]
    blend_weights: Float[Tensor, "b k h w"]
    importance: Float[Tensor, "b 1 h w"]


def single_flow_signal(
    source: Float[Tensor, "b 3 h w"], flow: Float[Tensor, "b 2 h w"], importance: Float[Tensor, "b 1 h w"] | None = None
) -> MotionSignal:
    """A source image with one flow. Default importance: the same for all pixels."""
    check_shape("flow", flow, (len(source), 2, *source.shape[2:]), source=source)
    ones = torch.ones_like(flow[:, :1])
    return MotionSignal(source, flow[:, None], ones, torch.zeros_like(ones) if importance is None else importance)


def select_signals(signal: MotionSignal, rows) -> MotionSignal:
    """The signals of some of the B source images. rows: any index of a tensor's first axis."""
    return MotionSignal(*(part[rows] for part in signal))


# --- the forward models -----------------------------------------------------------------------------------------------


def bilinear_sample_xy(image: Float[Tensor, "b c h w"], x: Float[Tensor, "b *p"], y: Float[Tensor, "b *p"]) -> Tensor:
    """The image at positions between its pixels, (B, C, *p); at x = j, y = i it is image[..., i, j].

    A position outside the image gets the nearest value of the border. Its gradient with respect to x and y is 0, also
    on the border itself. Where h and w are powers of two, whole positions are exact; else they are rounded.
    """
    check_shape("y", y, x.shape, x=x)
    if image.ndim != 4 or x.ndim < 2 or len(x) != len(image):
        raise ValueError(f"got image {format_shape(image)} and x {format_shape(x)}, wanted (B, C, h, w) and (B, ...)")
    h, w = image.shape[-2:]
    grid = torch.stack([(2 * x + 1) / w - 1, (2 * y + 1) / h - 1], -1)  # (B, *p, 2): -1 and 1 are the image's edges
    flat_grid = grid.flatten(1, -2)[:, None]  # (B, 1, P, 2)
    sampled = nn.functional.grid_sample(image, flat_grid, padding_mode="border", align_corners=False)  # (B, C, 1, P)
    return sampled.flatten(2).unflatten(2, x.shape[1:])


def splat(values: Float[Tensor, "b c h w"], flow: Float[Tensor, "b 2 h w"]) -> Float[Tensor, "b c h w"]:
    """Moves the values of every pixel by the flow, adds them to the four nearest pixels with bilinear weights.

    Values that leave the frame are lost.
    """
    if values.ndim != 4:
        raise ValueError(f"values have shape {format_shape(values)}, wanted (B, C, h, w)")
    check_shape("flow", flow, (len(values), 2, *values.shape[2:]), values=values)
    h, w = values.shape[-2:]
    x, y = (position + shift for position, shift in zip(pixel_grid(h, w, flow), flow.unbind(1), strict=True))
    left, top = x.detach().floor(), y.detach().floor()
    out = torch.zeros_like(values).flatten(2)
    for dx in (0, 1):
        for dy in (0, 1):
            j, i = left + dx, top + dy
            weight = (1 - (x - j).abs()) * (1 - (y - i).abs())
            weight = weight * ((j >= 0) & (j < w) & (i >= 0) & (i < h))
            index = (i.clamp(0, h - 1) * w + j.clamp(0, w - 1)).long().flatten(1)
            weighted = (values * weight[:, None]).flatten(2)
            out = out.scatter_add(2, index[:, None].expand_as(weighted), weighted)
    return out.unflatten(2, (h, w))


def pixel_grid(h: int, w: int, like: Tensor) -> tuple[Float[Tensor, "h w"], Float[Tensor, "h w"]]:
    """The coordinates x and y of every pixel, on the device and in the type of `like`."""
    x, y = (torch.arange(n, device=like.device, dtype=like.dtype) for n in (w, h))
    return x.expand(h, w), y[:, None].expand(h, w)


class _FlowForwardModel:
    """The base class of both forward models: a frame for every tau, blended from K flows."""

    def __call__(
        self, signal: MotionSignal, params: Float[Tensor, "b m 1"], pixel_indices=None
    ) -> Float[Tensor, "b m 3 h w"]:
        """The frames at times tau = params (Eq. 5)."""
        if pixel_indices is not None:
            raise ValueError("a warped frame is computed for all pixels at once: pixel_indices must be None")
        b, m, k = *params.shape[:2], signal.flows.shape[1]
        frames = self.apply_flow(*_expand_to_frames(signal, params)).unflatten(0, (b, m, k))
        return (signal.blend_weights[:, None, :, None] * frames).sum(2)


def _expand_to_frames(signal: MotionSignal, params: Float[Tensor, "b m 1"]) -> tuple[Tensor, Tensor, Tensor]:
    """Source, tau * flow and importance for each of B sources, M times and K flows: (B M K, c, H, W) each."""
    b, k = signal.flows.shape[:2]
    if params.ndim != 3 or params.shape[0] != b or params.shape[2] != 1:
        raise ValueError(
            f"params must be the times tau of the frames of {b} source images, (B, M, 1); got {tuple(params.shape)}"
        )
    source, importance = (
        x[:, None, None].expand(b, params.shape[1], k, *x.shape[1:]).flatten(0, 2)
        for x in (signal.source, signal.importance)
    )
    flow = params[:, :, None, :, None, None] * signal.flows[:, None]  # (B, M, K, 2, H, W)
    return source, flow.flatten(0, 2), importance


class BackwardWarp(_FlowForwardModel):
    """O(x) = source(x - tau F(x)), bilinear between pixels; outside the source, the colour of its border.

    The flow is evaluated at the pixels of the frame, not of the source. So the flow of a moving object must extend
    ahead of the object, and the area that the object uncovers is filled with the colours beside it.
    """

    def apply_flow(self, source, flow, importance) -> Float[Tensor, "n 3 h w"]:
        """One frame for each source and flow."""
        x, y = pixel_grid(*source.shape[-2:], source)
        return bilinear_sample_xy(source, x - flow[:, 0], y - flow[:, 1])

    def displacement(self, signal: MotionSignal) -> Float[Tensor, "b 2 h w"]:
        """The displacement of each source pixel by tau = 1: the mean of F over the frame's pixels that show it.

        The frame's pixel y shows the source at y - F(y), so the source pixel there moves by F(y).
        """
        flows, blend_weights = signal.flows, signal.blend_weights[:, :, None]
        weighted = torch.cat([blend_weights * flows, blend_weights], 2)  # (B, K, 2 + 1, H, W)
        splatted = splat(weighted.flatten(0, 1), -flows.flatten(0, 1)).view_as(weighted)
        total = (splatted + VISIBILITY_EPSILON * weighted).sum(1)
        return total[:, :2] / total[:, 2:]


@dataclass(frozen=True)
class SoftmaxSplat(_FlowForwardModel):
    """Moves every pixel x of the source to x + tau F(x); where several arrive, exp(importance) weighs them.

    Where the coverage is low there is a hole; `hole_mask` says where. A hole is filled with the mean colour around it,
    in which the least important pixels weigh most: an object that moves away uncovers the background.

    min_coverage: a pixel with less coverage than this counts as a hole in part; the coverage is the sum of the bilinear
        weights that arrive, 1 without motion
    """

    min_coverage: float = 0.25

    def __post_init__(self):
        check_positive(min_coverage=self.min_coverage)

    def apply_flow(self, source, flow, importance) -> Float[Tensor, "n 3 h w"]:
        """One frame for each source and flow."""
        highest, lowest = importance.amax((2, 3), keepdim=True), importance.amin((2, 3), keepdim=True)
        front, back = (importance - highest).exp(), (lowest - importance).exp()
        values = torch.cat([front * source, front, back * source, back, torch.ones_like(front)], 1)
        front, back, coverage = splat(values, flow).split([4, 4, 1], 1)
        # the mean over 9 x 9 pixels, one axis after the other: at once, its gradient is slow on a GPU
        fill = nn.functional.avg_pool2d(nn.functional.avg_pool2d(back, (9, 1), 1, (4, 0)), (1, 9), 1, (0, 4))
        fill = fill + 1e-3 * back.mean((2, 3), keepdim=True)
        hole_weight = (1 - coverage / self.min_coverage).clamp(min=0)
        return (1 - hole_weight) * _weighted_mean(front) + hole_weight * _weighted_mean(fill)

    def displacement(self, signal: MotionSignal) -> Float[Tensor, "b 2 h w"]:
        """The displacement of each source pixel by tau = 1: the mean of its K flows.

        Each flow is weighted by its visibility, which is its blend weight at the place where the pixel arrives.
        """
        b, k, _, h, w = signal.flows.shape
        grid = pixel_grid(h, w, signal.blend_weights)
        x, y = (position + shift for position, shift in zip(grid, signal.flows.unbind(2), strict=True))
        weights = signal.blend_weights.reshape(b * k, 1, h, w)
        visibility = bilinear_sample_xy(weights, x.flatten(0, 1), y.flatten(0, 1)).view(b, k, 1, h, w)
        visibility = visibility + VISIBILITY_EPSILON
        return (visibility * signal.flows).sum(1) / visibility.sum(1)

    def hole_mask(self, signal: MotionSignal, params: Float[Tensor, "b m 1"]) -> Bool[Tensor, "b m h w"]:
        """True where the fill of a hole makes up more than half of the frame's colour."""
        source, flow, _ = _expand_to_frames(signal, params)
        coverage = splat(torch.ones_like(source[:, :1]), flow).unflatten(0, (*params.shape[:2], -1))[:, :, :, 0]
        return (signal.blend_weights[:, None] * coverage).sum(2) < self.min_coverage / 2


def _weighted_mean(weighted: Float[Tensor, "n 4 h w"]) -> Float[Tensor, "n 3 h w"]:
    """The sum of weighted colours (3 channels), divided by the sum of the weights (the last channel)."""
    return weighted[:, :3] / weighted[:, 3:].clamp(min=1e-12)


FORWARD_MODELS = {"warp": BackwardWarp(), "splat": SoftmaxSplat()}

# --- the denoiser -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Condition:
    """The denoiser's input apart from the noisy target: the source image and the target's time."""

    source: Float[Tensor, "b 3 h w"]
    tau: Float[Tensor, "b"]


class MotionDenoiser(nn.Module):
    """Eq. 4 by a U-Net: the signal, given the source image, one noisy frame, the frame's tau, and t.

    The network's flow outputs are multiplied by FLOW_SCALE. Its last layer is initialised near zero, not at zero: equal
    flows would get equal gradients and stay equal.

    num_flows: K, the number of flows that a frame is blended from
    """

    def __init__(self, num_flows: int = 1, widths: tuple[int, ...] = (32, 64, 96, 128)):
        super().__init__()
        check_count(num_flows=num_flows)
        self.num_flows = num_flows
        self.schedule = SCHEDULE
        self.network = UNet(7, 3 * num_flows + 1, widths)
        nn.init.normal_(self.network.conv_out[-1].weight, std=0.01)

    def condition(self, context: Observations, target_params: Float[Tensor, "b 1 1"], target_mask=None) -> Condition:
        """The context's source image and the target's time.

        Raises ValueError where there is not one of each, or the source is not at tau = 0 or not in [-1, 1].
        """
        check_single_target(target_params, target_mask)
        if context.value.shape[1] != 1 or target_params.shape[1:] != (1, 1):
            raise ValueError(
                f"this denoiser takes one source image and one target frame, got {context.value.shape[1]} and "
                f"{tuple(target_params.shape[1:])}"
            )
        if not torch.compiler.is_compiling():
            if (context.params != 0).any():
                raise ValueError(
                    f"the context must be the source image, at tau = 0; got tau = {context.params.abs().max():.3g}"
                )
            if (context.value.abs() > 1.01).any():
                raise ValueError(
                    "source images must be in [-1, 1], "
                    f"got values from {context.value.min():.3g} to {context.value.max():.3g}"
                )
        return Condition(context.value[:, 0], target_params[:, 0, 0])

    def forward(
        self, condition: Condition, noisy_target: Float[Tensor, "b 1 3 h w"], t: Float[Tensor, "b"]
    ) -> MotionSignal:
        """Eq. 4: the signal."""
        source, k = condition.source, self.num_flows
        tau = condition.tau[:, None, None, None].expand(-1, 1, *source.shape[2:])
        out = self.network(torch.cat([source, noisy_target[:, 0], tau], 1), t).float()
        flows, blend_logits, importance = out.split([2 * k, k, 1], 1)
        return MotionSignal(source, FLOW_SCALE * flows.unflatten(1, (k, 2)), blend_logits.softmax(1), importance)

    def loss_weight(self, condition: Condition, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """The inverse of the expected squared error, in units of the error of a frame without motion.

        The expected error has two parts. A tenth remains at every t, since no warp removes this part. The rest remains
        while the direction of motion is uncertain. Hundreds of pixels show the direction, each with a signal-to-noise
        ratio of (alpha / sigma)^2. Their joint ratio determines at which t the direction is known.
        """
        pooled_snr = 50 * (self.schedule.alpha(t) / self.schedule.sigma(t)).square()
        return 1 / (0.1 + 0.9 / (1 + pooled_snr))


def build_model(
    forward_model_name: str = "warp",
    num_flows: int = 1,
    model_class: type[ForwardDiffusion] = ForwardDiffusion,
    seed: int = 0,
    **options,
) -> ForwardDiffusion:
    """A diffusion model with newly initialised weights; with model_class=ForwardRegression, the deterministic baseline.

    forward_model_name: a key of FORWARD_MODELS
    num_flows: K
    options: of MotionDenoiser

    Raises ValueError if there is no forward model of that name.
    """
    if forward_model_name not in FORWARD_MODELS:
        raise ValueError(f"unknown forward model {forward_model_name!r}: choose one of {', '.join(FORWARD_MODELS)}")
    torch.manual_seed(seed)
    return model_class(MotionDenoiser(num_flows, **options), FORWARD_MODELS[forward_model_name], SCHEDULE)
