"""Motion from a single image, through warping (section 4.2).

The signal S is a still and a field: how far, and which way, each pixel of the still moves in one unit of time. Nobody
ever sees it. An observation is another frame of the same moment,

    O = forward(S; tau) = the still, its pixels moved by tau * field,

so the still itself is the observation at tau = 0, and it is the context; a later frame is the target.

Two forward models. `BackwardWarp` asks at each pixel of the frame where its colour came from; `SoftmaxSplat` sends
each pixel of the still where it goes (Niklaus and Liu 2020). Either blends K fields where it is asked to: with one
field no frame shows two half-moved things, so the mean of two motions has no signal; with two it has one.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fwdiff_lite.backbones import UNet
from fwdiff_lite.diffusion import ForwardDiffusion
from fwdiff_lite.observations import Observations
from fwdiff_lite.schedule import ShiftedCosineSchedule

N = 64  # pixels along a side of a frame
REACH = 8.0  # pixels: the unit in which the network says how far things move
SHOWN = 1e-3  # added to how much of a pixel is shown, so that a pixel that is not shown has a displacement too
SCHEDULE = ShiftedCosineSchedule(0.25)  # a thing's way shows in hundreds of pixels, so under much noise


class Motion(NamedTuple):
    """The signal: B stills in [-1, 1] and K fields over each.

    still:      (B, 3, H, W)
    fields:     (B, K, 2, H, W) displacement (x to the right, y down) in pixels at tau = 1
    share:      (B, K, H, W) how much of each pixel of a frame comes from which field; over K they sum to 1
    importance: (B, 1, H, W) who covers whom where several pixels arrive at one place; backward warping ignores it
    """

    still: Float[Tensor, "b 3 h w"]
    fields: Float[Tensor, "b k 2 h w"]
    share: Float[Tensor, "b k h w"]
    importance: Float[Tensor, "b 1 h w"]


def motion(
    still: Float[Tensor, "b 3 h w"], field: Float[Tensor, "b 2 h w"], importance: Float[Tensor, "b 1 h w"] | None = None
) -> Motion:
    """A still with one field. Importance: by default all pixels weigh the same."""
    one = torch.ones_like(field[:, :1])
    return Motion(still, field[:, None], one, torch.zeros_like(one) if importance is None else importance)


def take(signal: Motion, rows) -> Motion:
    """Some of the stills with their motions: whatever a tensor's first axis can be indexed with."""
    return Motion(*(part[rows] for part in signal))


# --- the forward models -----------------------------------------------------------------------------------------------


def bilinear(image: Float[Tensor, "b c h w"], x: Float[Tensor, "b *p"], y: Float[Tensor, "b *p"]) -> Tensor:
    """The image between its pixels, (B, C, *p): at x = j, y = i exactly image[..., i, j]; outside, its border."""
    h, w = image.shape[-2:]
    x, y = x.clamp(0, w - 1), y.clamp(0, h - 1)
    left, top = x.detach().floor().clamp(max=w - 2), y.detach().floor().clamp(max=h - 2)
    right, low = x - left, y - top  # weights of the right and of the lower neighbours
    corner = (top * w + left).long().flatten(1)  # (B, *p) -> (B, P), places in the flattened image
    flat, out = image.flatten(2), 0.0
    for row, up_or_down in ((0, 1 - low), (w, low)):
        for step, weight in ((row, (1 - right) * up_or_down), (row + 1, right * up_or_down)):
            value = flat.gather(2, (corner + step)[:, None].expand(-1, image.shape[1], -1))
            out = out + value.unflatten(2, x.shape[1:]) * weight[:, None]
    return out


def splat(values: Float[Tensor, "b c h w"], field: Float[Tensor, "b 2 h w"]) -> Float[Tensor, "b c h w"]:
    """Sends every pixel's values to where the field takes it, shared among the four pixels there; sums what arrives.

    What leaves the frame is lost.
    """
    h, w = values.shape[-2:]
    x, y = (place + way for place, way in zip(grid(h, w, field), field.unbind(1), strict=True))
    left, top = x.detach().floor(), y.detach().floor()
    out = torch.zeros_like(values).flatten(2)
    for dx in (0, 1):
        for dy in (0, 1):
            j, i = left + dx, top + dy
            weight = (1 - (x - j).abs()) * (1 - (y - i).abs())
            weight = weight * ((j >= 0) & (j < w) & (i >= 0) & (i < h))
            place = (i.clamp(0, h - 1) * w + j.clamp(0, w - 1)).long().flatten(1)
            arriving = (values * weight[:, None]).flatten(2)
            out = out.scatter_add(2, place[:, None].expand_as(arriving), arriving)
    return out.unflatten(2, (h, w))


def grid(h: int, w: int, like: Tensor) -> tuple[Float[Tensor, "h w"], Float[Tensor, "h w"]]:
    """x and y of every pixel."""
    x, y = (torch.arange(n, device=like.device, dtype=like.dtype) for n in (w, h))
    return x.expand(h, w), y[:, None].expand(h, w)


class _Frames:
    """What both forward models share: a frame for every tau, blended from the K fields."""

    def __call__(self, signal: Motion, params: Float[Tensor, "b m 1"], pixel_indices=None) -> Float[Tensor, "b m 3 h w"]:
        """The frames at times tau = params (Eq. 5)."""
        if pixel_indices is not None:
            raise ValueError("a moved frame is computed whole: `at` must be None")
        b, m, k = *params.shape[:2], signal.fields.shape[1]
        frames = self.move(*_each(signal, params)).unflatten(0, (b, m, k))
        return (signal.share[:, None, :, None] * frames).sum(2)


def _each(signal: Motion, params: Float[Tensor, "b m 1"]) -> tuple[Tensor, Tensor, Tensor]:
    """Still, way = tau * field, and importance for each of B stills, M times and K fields: (B M K, c, H, W) each."""
    b, k = signal.fields.shape[:2]
    if params.ndim != 3 or params.shape[0] != b or params.shape[2] != 1:
        raise ValueError(f"params are the times tau of frames of {b} stills, (B, M, 1); got {tuple(params.shape)}")
    still, importance = (
        x[:, None, None].expand(b, params.shape[1], k, *x.shape[1:]).flatten(0, 2)
        for x in (signal.still, signal.importance)
    )
    way = params[:, :, None, :, None, None] * signal.fields[:, None]  # (B, M, K, 2, H, W)
    return still, way.flatten(0, 2), importance


class BackwardWarp(_Frames):
    """O(x) = still(x - tau F(x)), bilinear between pixels; outside the still, its border's colour.

    The field is read where the frame looks, not where the still is: at the front of a moving thing it must reach
    beyond the thing, and what is uncovered behind is filled with what lies next to it.
    """

    def move(self, still, way, importance) -> Float[Tensor, "n 3 h w"]:
        """One frame for each still and way."""
        x, y = grid(*still.shape[-2:], still)
        return bilinear(still, x - way[:, 0], y - way[:, 1])

    def displacement(self, signal: Motion) -> Float[Tensor, "b 2 h w"]:
        """How far each pixel of the still goes by tau = 1: the mean of F over the places that look at it.

        A place y looks at y - F(y), so what is there goes by F(y).
        """
        fields, share = signal.fields, signal.share[:, :, None]
        weighted = torch.cat([share * fields, share], 2)  # (B, K, 2 + 1, H, W)
        looked_at = splat(weighted.flatten(0, 1), -fields.flatten(0, 1)).view_as(weighted)
        total = (looked_at + SHOWN * weighted).sum(1)
        return total[:, :2] / total[:, 2:]


@dataclass(frozen=True)
class SoftmaxSplat(_Frames):
    """Every pixel x of the still goes to x + tau F(x); where several arrive, exp(importance) weighs them.

    Where little arrives there is a hole, and `holes` says where. It is filled from what is near, the least important
    first: what opens behind a thing that moves away is what was behind it.

    least: below this coverage (1: as many pixels arrive as there are) a place counts as a hole, in part
    """

    least: float = 0.25

    def move(self, still, way, importance) -> Float[Tensor, "n 3 h w"]:
        """One frame for each still and way."""
        highest, lowest = importance.amax((2, 3), keepdim=True), importance.amin((2, 3), keepdim=True)
        front, back = (importance - highest).exp(), (lowest - importance).exp()
        values = torch.cat([front * still, front, back * still, back, torch.ones_like(front)], 1)
        front, back, coverage = splat(values, way).split([4, 4, 1], 1)
        # the mean over 9 x 9 pixels, one axis after the other: at once, its gradient is slow on a GPU
        near = nn.functional.avg_pool2d(nn.functional.avg_pool2d(back, (9, 1), 1, (4, 0)), (1, 9), 1, (0, 4))
        near = near + 1e-3 * back.mean((2, 3), keepdim=True)
        hole = (1 - coverage / self.least).clamp(min=0)
        return (1 - hole) * _colour(front) + hole * _colour(near)

    def displacement(self, signal: Motion) -> Float[Tensor, "b 2 h w"]:
        """How far each pixel of the still goes by tau = 1: the mean of its K ways, each as far as its end shows."""
        b, k, _, h, w = signal.fields.shape
        x, y = (place + way for place, way in zip(grid(h, w, signal.share), signal.fields.unbind(2), strict=True))
        shown = bilinear(signal.share.reshape(b * k, 1, h, w), x.flatten(0, 1), y.flatten(0, 1)).view(b, k, 1, h, w)
        shown = shown + SHOWN
        return (shown * signal.fields).sum(1) / shown.sum(1)

    def holes(self, signal: Motion, params: Float[Tensor, "b m 1"]) -> Bool[Tensor, "b m h w"]:
        """True where more of the frame is guessed than arrives."""
        still, way, _ = _each(signal, params)
        coverage = splat(torch.ones_like(still[:, :1]), way).unflatten(0, (*params.shape[:2], -1))[:, :, :, 0]
        return (signal.share[:, None] * coverage).sum(2) < self.least / 2


def _colour(weighted: Float[Tensor, "n 4 h w"]) -> Float[Tensor, "n 3 h w"]:
    """Weighted colours over their weights."""
    return weighted[:, :3] / weighted[:, 3:].clamp(min=1e-12)


FORWARD_MODELS = {"warp": BackwardWarp(), "splat": SoftmaxSplat()}

# --- the denoiser -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Condition:
    """What a denoiser knows before any noise: the still, and when the target was taken."""

    still: Float[Tensor, "b 3 h w"]
    tau: Float[Tensor, "b"]


class MotionDenoiser(nn.Module):
    """Eq. 4: how the still moves, from the still, one noisy frame, its tau and t, by a U-Net.

    The fields are REACH times what the network says. Its last layer begins near zero, not at zero: fields that are
    alike would stay alike.

    fields: K, how many fields a frame may be blended from
    """

    def __init__(self, fields: int = 1, widths: tuple[int, ...] = (32, 64, 96, 128)):
        super().__init__()
        self.fields = fields
        self.network = UNet(7, 3 * fields + 1, widths)
        nn.init.normal_(self.network.conv_out[-1].weight, std=0.01)

    def condition(self, context: Observations, target_params: Float[Tensor, "b 1 1"]) -> Condition:
        """The context's one still and the target's one time; ValueError where they are not, or not in [-1, 1]."""
        if context.value.shape[1] != 1 or target_params.shape[1:] != (1, 1):
            raise ValueError(
                f"this denoiser takes one still and one target frame, got {context.value.shape[1]} and "
                f"{tuple(target_params.shape[1:])}"
            )
        if not torch.compiler.is_compiling():
            if (context.params != 0).any():
                raise ValueError(f"the context is the still, at tau = 0; got tau = {context.params.abs().max():.3g}")
            if (context.value.abs() > 1.01).any():
                raise ValueError(
                    f"stills are in [-1, 1], got values from {context.value.min():.3g} to {context.value.max():.3g}"
                )
        return Condition(context.value[:, 0], target_params[:, 0, 0])

    def forward(
        self, condition: Condition, noisy_target: Float[Tensor, "b 1 3 h w"], t: Float[Tensor, "b"]
    ) -> Motion:
        """Eq. 4: the signal."""
        still, k = condition.still, self.fields
        tau = condition.tau[:, None, None, None].expand(-1, 1, *still.shape[2:])
        out = self.network(torch.cat([still, noisy_target[:, 0], tau], 1), t).float()
        fields, share, importance = out.split([2 * k, k, 1], 1)
        return Motion(still, REACH * fields.unflatten(1, (k, 2)), share.softmax(1), importance)

    def loss_weight(self, condition: Condition, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """One over the error that is to be expected, as a share of a still picture's.

        A tenth for what no warp can show, and the rest while it is open which way things go: that is settled where
        hundreds of pixels, each with a signal-to-noise ratio of (alpha / sigma)^2, say it together.
        """
        together = 50 * (SCHEDULE.alpha(t) / SCHEDULE.sigma(t)).square()
        return 1 / (0.1 + 0.9 / (1 + together))


def untrained(
    kind: str = "warp", fields: int = 1, model: type[ForwardDiffusion] = ForwardDiffusion, seed: int = 0, **options
) -> ForwardDiffusion:
    """A diffusion model, or with model=ForwardRegression its deterministic baseline, with fresh weights.

    kind: which of FORWARD_MODELS; fields: K; options: of MotionDenoiser
    """
    if kind not in FORWARD_MODELS:
        raise ValueError(f"unknown forward model {kind!r}: choose one of {', '.join(FORWARD_MODELS)}")
    torch.manual_seed(seed)
    return model(MotionDenoiser(fields, **options), FORWARD_MODELS[kind], SCHEDULE)
