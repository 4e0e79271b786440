"""Pinhole cameras. One 4 x 4 projection matrix P describes a camera. P maps a world point to its place in the image:

    P (x, y, z, 1) = (u d, v d, d, 1).

d is the depth along the camera's optical axis. u points right and v points down; both run from 0 to 1 over the image.
P holds pose and intrinsics together, so cameras are batched like any other tensor, and the inverse of P gives the rays.
Pixel (i, j) of an image of h x w pixels has its centre at u = (j + 0.5) / w, v = (i + 0.5) / h.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from fwdiff_lite.checks import check_count, check_last_sizes, check_shape, check_values_on_cpu
from fwdiff_lite.devices import widest_float


def look_at(
    eye: Float[Tensor, "*b 3"],
    look_at_point: Float[Tensor, "*b 3"],
    fov: Float[Tensor, "*b"] | float,
    up: tuple[float, float, float] = (0.0, 0.0, 1.0),
) -> Float[Tensor, "*b 4 4"]:
    """Cameras at `eye` whose optical axis passes through `look_at_point`.

    fov: the field of view in radians, the same horizontally and vertically

    ValueError if a camera's axis is parallel to `up`, if the two points are equal, if fov is not between 0 and pi, or
    if a coordinate is not finite.
    """
    check_last_sizes("eye", eye, 3)
    check_last_sizes("look_at_point", look_at_point, 3)
    check_shape("look_at_point", look_at_point, eye.shape, eye=eye)
    if not bool(torch.isfinite(torch.stack([eye, look_at_point])).all()):
        raise ValueError("eye or look_at_point holds NaN or infinite numbers")
    if len(up) != 3 or not all(math.isfinite(x) for x in up):
        raise ValueError(f"got up = {up}, wanted three finite numbers")
    fov = torch.as_tensor(fov, dtype=eye.dtype, device=eye.device).expand(eye.shape[:-1])
    if not bool(((fov > 0) & (fov < math.pi)).all()):
        raise ValueError(
            f"a camera needs a field of view between 0 and pi radians, got {fov.min():.3g} to {fov.max():.3g}"
        )
    forward = torch.nn.functional.normalize(look_at_point - eye, dim=-1)
    right = torch.linalg.cross(forward, torch.tensor(up, dtype=eye.dtype, device=eye.device).expand_as(forward))
    if bool((right.norm(dim=-1) < 1e-6).any()):
        raise ValueError(
            f"a camera cannot look at itself or along its up direction {up}: change `eye`, `look_at_point` or `up`"
        )
    right = torch.nn.functional.normalize(right, dim=-1)
    rotation = torch.stack([right, torch.linalg.cross(forward, right), forward], -2)  # rows: right, down, forward
    extrinsics = rotation @ torch.cat([torch.eye(3).to(eye).expand(*eye.shape, 3), -eye[..., None]], -1)  # (*b, 3, 4)
    focal = 0.5 / torch.tan(fov / 2)[..., None, None]
    depth_row = extrinsics[..., 2:, :]
    rows = torch.cat([focal * extrinsics[..., :2, :] + 0.5 * depth_row, depth_row], -2)
    homogeneous_row = eye.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*rows.shape[:-2], 1, 4)
    return torch.cat([rows, homogeneous_row], -2)


def check_cameras(cameras: Float[Tensor, "*b r c"]) -> Float[Tensor, "*b 4 4"]:
    """Returns the cameras unchanged if each is a finite, invertible 4 x 4 matrix whose last row is 0 0 0 1.

    ValueError otherwise. The values are checked by one read from the device, under torch.compile not at all.
    """
    if cameras.shape[-2:] != (4, 4):
        raise ValueError(f"a camera is one 4 x 4 matrix, world to (u d, v d, d, 1); got {tuple(cameras.shape)}")
    check_last_sizes("cameras", cameras, 4, 4)
    if torch.compiler.is_compiling():
        return cameras
    last_row, linear = cameras[..., 3, :], cameras[..., :3, :3].to(widest_float(cameras.device))
    is_finite = torch.isfinite(cameras).all()
    ends_in_0001 = (last_row[..., :3] == 0).all() & (last_row[..., 3] == 1).all()
    determinants = torch.linalg.det(linear).abs()
    if bool(is_finite & ends_in_0001 & ~(determinants < 1e-9).any()):  # a GPU is waited for here alone
        return cameras
    if not bool(is_finite):
        raise ValueError("a camera matrix holds NaN or infinite numbers: give finite ones")
    if not bool(ends_in_0001):
        raise ValueError(
            "the last row of a camera matrix must be 0 0 0 1: the matrix maps the world to (u d, v d, d, 1)"
        )
    raise ValueError(
        f"a camera matrix is not invertible (determinant {determinants.min():.2g}): "
        "its first three rows must be linearly independent"
    )


def pixel_centres(h: int, w: int, like: Tensor, offset: tuple[float, float] = (0.0, 0.0)) -> Float[Tensor, "p 2"]:
    """Image coordinates (u, v) of the centres of all h w pixels, row by row.

    like: a tensor that gives the device and the type
    offset: added to the centres, in pixels, to the right and down
    """
    check_count(h=h, w=w)
    right, down = offset
    sides = ((h, 0.5 + down), (w, 0.5 + right))
    v, u = (torch.arange(n, device=like.device, dtype=like.dtype).add(centre) / n for n, centre in sides)
    return torch.stack([u.expand(h, w), v[:, None].expand(h, w)], -1).flatten(0, 1)


def rays(cameras: Float[Tensor, "*b 4 4"], uv: Float[Tensor, "*#b p 2"]) -> tuple[Tensor, Tensor]:
    """Origins (*b, 1, 3) and unit directions (*b, p, 3) of the rays through the image points `uv`."""
    check_last_sizes("cameras", cameras, 4, 4)
    check_last_sizes("uv", uv, 2)
    axes, eye = invert_projection(cameras)
    directions = _matvec(axes, torch.cat([uv, torch.ones_like(uv[..., :1])], -1))
    return eye[..., None, :], torch.nn.functional.normalize(directions, dim=-1)


def invert_projection(cameras: Float[Tensor, "*b 4 4"]) -> tuple[Float[Tensor, "*b 3 3"], Float[Tensor, "*b 3"]]:
    """The matrix A and the camera centre e of the inverse projection x = d A (u, v, 1) + e, intrinsics included.

    Computed by Cramer's rule, in double precision where the device has it. torch.linalg.inv would make a GPU
    synchronise with the CPU, to report whether the inverse exists.
    """
    matrices = cameras.to(widest_float(cameras.device))
    a, b, c = matrices[..., :3, :3].unbind(-2)
    cofactors = [torch.linalg.cross(*pair) for pair in ((b, c), (c, a), (a, b))]
    axes = torch.stack(cofactors, -1) / (a * cofactors[0]).sum(-1)[..., None, None]
    eye = -_matvec(axes, matrices[..., None, :3, 3])[..., 0, :]
    return axes.to(cameras.dtype), eye.to(cameras.dtype)


def project(cameras: Float[Tensor, "*b 4 4"], points: Float[Tensor, "*#b p 3"]) -> tuple[Tensor, Tensor]:
    """Image coordinates (u, v), (*b, p, 2), and depth, (*b, p), of world points.

    Where the depth is negative, the point is behind the camera and (u, v) has no meaning.
    """
    return perspective_divide(project_homogeneous(cameras, points))


def perspective_divide(homogeneous: Float[Tensor, "*b p 3"]) -> tuple[Tensor, Tensor]:
    """Image coordinates (u, v), (*b, p, 2), and depth, (*b, p), of the result of project_homogeneous."""
    depth = homogeneous[..., 2]
    # at the camera centre the projection is undefined; any finite value will do, since callers mask it
    nonzero = depth.abs() > 1e-6
    return homogeneous[..., :2] / torch.where(nonzero, depth, 1e-6)[..., None] + 0.5, depth


def project_into_views(
    points: Float[Tensor, "b p 3"], cameras: Float[Tensor, "b v 4 4"]
) -> tuple[Float[Tensor, "b v p 3"], Float[Tensor, "b v p 2"], Float[Tensor, "b v p 1"]]:
    """Where points are for V views: homogeneous camera coordinates, image coordinates, and 1 inside of the image.

    Outside of the image or behind the camera, the image coordinates are those of the centre, and the last number is 0.
    """
    homogeneous = project_homogeneous(cameras, points[:, None])
    uv, depth = perspective_divide(homogeneous)  # (B, V, P, 2), (B, V, P)
    inside = (depth > 0) & ((uv - 0.5).abs() <= 0.5).all(-1)
    return homogeneous, torch.where(inside[..., None], uv, 0.5), inside[..., None].to(points.dtype)


def project_homogeneous(cameras: Float[Tensor, "*b 4 4"], points: Float[Tensor, "*#b p 3"]) -> Float[Tensor, "*b p 3"]:
    """World points in homogeneous image coordinates ((u - 0.5) d, (v - 0.5) d, d), from the image's centre.

    For a camera of look_at, they are the camera coordinates (x, y, d) with x and y multiplied by the focal length, in
    units of the image's sides.
    """
    check_last_sizes("cameras", cameras, 4, 4)
    check_last_sizes("points", points, 3)
    projected = _matvec(cameras[..., :3, :3], points) + cameras[..., None, :3, 3]
    return torch.cat([projected[..., :2] - 0.5 * projected[..., 2:], projected[..., 2:]], -1)


def _matvec(matrix: Float[Tensor, "*b 3 3"], points: Float[Tensor, "*#b p 3"]) -> Float[Tensor, "*b p 3"]:
    """The product of the matrix and each point, in full precision even where autocast lowers that of a matmul."""
    x, y, z = (matrix[..., None, :, i] * points[..., i, None] for i in range(3))
    return x + y + z


def orbit(
    azimuth: Float[Tensor, "*b"],
    elevation: Float[Tensor, "*b"] | float,
    distance: Float[Tensor, "*b"] | float,
    fov: Float[Tensor, "*b"] | float,
    look_at_point: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Float[Tensor, "*b 4 4"]:
    """Cameras on a sphere around `look_at_point`, which they look at.

    azimuth, elevation, fov: angles in radians; elevation is measured from the horizontal plane through the point
    distance: from the point to the camera, above 0

    ValueError as of look_at, or if a distance is not above 0.
    """
    elevation, distance = (torch.as_tensor(x).to(azimuth).expand_as(azimuth) for x in (elevation, distance))
    check_values_on_cpu(lambda: ~(distance > 0), "a camera's distance must be above 0")
    horizontal = distance * elevation.cos()
    offset = torch.stack([horizontal * azimuth.cos(), horizontal * azimuth.sin(), distance * elevation.sin()], -1)
    centre = torch.tensor(look_at_point, dtype=azimuth.dtype, device=azimuth.device).expand_as(offset)
    return look_at(centre + offset, centre, fov)


def plucker_coordinates(
    cameras: Float[Tensor, "*b 4 4"], h: int, w: int, length_unit: float = 1.0
) -> Float[Tensor, "*b 6 h w"]:
    """Plücker coordinates of each pixel's ray: its direction d, and its moment o x d with o in units of length_unit.

    They do not depend on which point o of the ray is taken (Sitzmann et al. 2021, Section 3.1).
    """
    origins, directions = rays(cameras, pixel_centres(h, w, cameras))
    moments = torch.linalg.cross(origins.expand_as(directions), directions) / length_unit
    return torch.cat([directions, moments], -1).transpose(-1, -2).unflatten(-1, (h, w))
