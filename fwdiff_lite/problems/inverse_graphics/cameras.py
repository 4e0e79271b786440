"""Pinhole cameras, each one 4 x 4 matrix P that takes a point of the world to where an image shows it:

    P (x, y, z, 1) = (u d, v d, d, 1),

d the depth along the camera's axis, u to the right and v down, both in [0, 1] over the image. Pose and intrinsics are
both in it, it stacks like any tensor, and its inverse casts rays. Pixel (i, j) of an image of h x w pixels has its
centre at u = (j + 0.5) / w, v = (i + 0.5) / h.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from fwdiff_lite.devices import widest_float


def look_at(
    eye: Float[Tensor, "*b 3"],
    at: Float[Tensor, "*b 3"],
    view: Float[Tensor, "*b"] | float,
    up: tuple[float, float, float] = (0.0, 0.0, 1.0),
) -> Float[Tensor, "*b 4 4"]:
    """Cameras at `eye` that look at `at` and see an angle of `view` radians, across and from top to bottom.

    ValueError where a camera looks along `up`, or at itself, or its angle is not between 0 and pi.
    """
    view = torch.as_tensor(view, dtype=eye.dtype, device=eye.device).expand(eye.shape[:-1])
    if not bool(((view > 0) & (view < math.pi)).all()):
        raise ValueError(f"a camera sees an angle between 0 and pi radians, got {view.min():.3g} to {view.max():.3g}")
    forward = torch.nn.functional.normalize(at - eye, dim=-1)
    right = torch.linalg.cross(forward, torch.tensor(up, dtype=eye.dtype, device=eye.device).expand_as(forward))
    if bool((right.norm(dim=-1) < 1e-6).any()):
        raise ValueError(f"a camera cannot look at itself or along its up direction {up}: move `eye`, `at` or `up`")
    right = torch.nn.functional.normalize(right, dim=-1)
    axes = torch.stack([right, torch.linalg.cross(forward, right), forward], -2)  # right, down, forward
    centred = axes @ torch.cat([torch.eye(3).to(eye).expand(*eye.shape, 3), -eye[..., None]], -1)  # (*b, 3, 4)
    focal = 0.5 / torch.tan(view / 2)[..., None, None]
    depth = centred[..., 2:, :]
    rows = torch.cat([focal * centred[..., :2, :] + 0.5 * depth, depth], -2)
    last = eye.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*rows.shape[:-2], 1, 4)
    return torch.cat([rows, last], -2)


def check_cameras(cameras: Float[Tensor, "*b r c"]) -> Float[Tensor, "*b 4 4"]:
    """The cameras themselves, or a ValueError where one is not a finite invertible 4 x 4 matrix that ends in 0 0 0 1.

    Under torch.compile only their shape is looked at.
    """
    if cameras.shape[-2:] != (4, 4):
        raise ValueError(f"a camera is one 4 x 4 matrix, world to (u d, v d, d, 1); got {tuple(cameras.shape)}")
    if torch.compiler.is_compiling():
        return cameras
    if not bool(torch.isfinite(cameras).all()):
        raise ValueError("a camera holds NaN or infinite numbers")
    if not bool((cameras[..., 3, :] == cameras.new_tensor([0.0, 0.0, 0.0, 1.0])).all()):
        raise ValueError("a camera's last row must be 0 0 0 1: it maps the world to (u d, v d, d, 1)")
    wide = cameras[..., :3, :3].to(widest_float(cameras.device))
    least = torch.linalg.det(wide).abs().min() if cameras.numel() else 1.0
    if least < 1e-9:
        raise ValueError(f"a camera is not invertible (determinant {least:.2g}): its three axes must differ")
    return cameras


def pixel_centres(h: int, w: int, like: Tensor, shift: tuple[float, float] = (0.0, 0.0)) -> Float[Tensor, "p 2"]:
    """(u, v) of all h w pixels, row by row; shift: so many pixels to the right of and below their centres."""
    right, down = shift
    sides = ((h, 0.5 + down), (w, 0.5 + right))
    v, u = (torch.arange(n, device=like.device, dtype=like.dtype).add(first) / n for n, first in sides)
    return torch.stack([u.expand(h, w), v[:, None].expand(h, w)], -1).flatten(0, 1)


def rays(cameras: Float[Tensor, "*b 4 4"], uv: Float[Tensor, "*#b p 2"]) -> tuple[Tensor, Tensor]:
    """Where rays start, (*b, 1, 3), and their unit directions, (*b, p, 3), through the points uv of the image."""
    axes, eye = inverse(cameras)
    away = _times(axes, torch.cat([uv, torch.ones_like(uv[..., :1])], -1))
    return eye[..., None, :], torch.nn.functional.normalize(away, dim=-1)


def inverse(cameras: Float[Tensor, "*b 4 4"]) -> tuple[Float[Tensor, "*b 3 3"], Float[Tensor, "*b 3"]]:
    """A and e of x = d A (u, v, 1) + e; e is where the camera stands.

    By Cramer's rule, in double precision where the device has it. torch.linalg.inv would make a GPU wait, to hear
    whether there is an inverse.
    """
    wide = cameras.to(widest_float(cameras.device))
    a, b, c = wide[..., :3, :3].unbind(-2)
    cofactors = [torch.linalg.cross(*pair) for pair in ((b, c), (c, a), (a, b))]
    axes = torch.stack(cofactors, -1) / (a * cofactors[0]).sum(-1)[..., None, None]
    eye = -_times(axes, wide[..., None, :3, 3])[..., 0, :]
    return axes.to(cameras.dtype), eye.to(cameras.dtype)


def project(cameras: Float[Tensor, "*b 4 4"], points: Float[Tensor, "*#b p 3"]) -> tuple[Tensor, Tensor]:
    """(u, v), (*b, p, 2), and depth, (*b, p), of points of the world; behind a camera, uv has no meaning."""
    return on_image(coordinates(cameras, points))


def on_image(seen: Float[Tensor, "*b p 3"]) -> tuple[Tensor, Tensor]:
    """(u, v), (*b, p, 2), and depth, (*b, p), of points in a camera's own frame."""
    depth = seen[..., 2]
    far = depth.abs() > 1e-6  # at the camera itself no direction is right; any finite one will do, since it is masked
    return seen[..., :2] / torch.where(far, depth, 1e-6)[..., None] + 0.5, depth


def coordinates(cameras: Float[Tensor, "*b 4 4"], points: Float[Tensor, "*#b p 3"]) -> Float[Tensor, "*b p 3"]:
    """Points in each camera's own frame: ((u - 0.5) d, (v - 0.5) d, d), so x and y are 0 along the axis."""
    seen = _times(cameras[..., :3, :3], points) + cameras[..., None, :3, 3]
    return torch.cat([seen[..., :2] - 0.5 * seen[..., 2:], seen[..., 2:]], -1)


def _times(matrix: Float[Tensor, "*b 3 3"], points: Float[Tensor, "*#b p 3"]) -> Float[Tensor, "*b p 3"]:
    """The matrix times each point, in full precision also where autocast would have a product of matrices in less."""
    x, y, z = (matrix[..., None, :, i] * points[..., i, None] for i in range(3))
    return x + y + z


def orbit(
    azimuth: Float[Tensor, "*b"],
    elevation: Float[Tensor, "*b"] | float,
    distance: Float[Tensor, "*b"] | float,
    view: Float[Tensor, "*b"] | float,
    at: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Float[Tensor, "*b 4 4"]:
    """Cameras around the point `at`, which they look at: angles in radians, elevation above the plane z = at[2]."""
    elevation, distance = (torch.as_tensor(x).to(azimuth).expand_as(azimuth) for x in (elevation, distance))
    flat = distance * elevation.cos()
    away = torch.stack([flat * azimuth.cos(), flat * azimuth.sin(), distance * elevation.sin()], -1)
    centre = torch.tensor(at, dtype=azimuth.dtype, device=azimuth.device).expand_as(away)
    return look_at(centre + away, centre, view)
