"""Ray tracing of boxes, cylinders and spheres that stand upright.

All of these solids are convex, so a ray is inside of a solid from a distance `near` to a distance `far`, and both have
a closed form. Every shape is computed for every ray, and masks select the results. No branch depends on data, so the
code can be compiled for a GPU.

A ray's origin o and direction d may be of any length and in any coordinates: the distance s of its point o + s d is in
units of the length of d. It is therefore the same in the world and in a solid's local coordinates.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

SHAPES = ("box", "cylinder", "sphere")
SURFACE_OFFSET = 1e-3  # from a surface, along its normal, of the origins of rays that begin there

# --- solids -----------------------------------------------------------------------------------------------------------


class Solids(NamedTuple):
    """Solids with their colours: (B, S, ...) all solids of B scenes, or (B, M, P, ...) one solid for each ray."""

    present: Bool[Tensor, "*b"]
    shape_index: Int[Tensor, "*b"]  # into SHAPES
    centre: Float[Tensor, "*b 3"]
    half_extents: Float[Tensor, "*b 3"]
    axis: Float[Tensor, "*b 2"]  # direction of the first axis: cosine and sine of the azimuth
    colour: Float[Tensor, "*b 3"]

    def select(self, solid_index: int | Int[Tensor, "b m p"]) -> "Solids":
        """The solid with this index, for each ray."""
        rows = torch.arange(len(self.shape_index), device=self.shape_index.device)[:, None, None]
        return Solids(*(x[rows, solid_index] for x in self))

    def has_shape(self, name: str) -> Bool[Tensor, "*b"]:
        if name not in SHAPES:
            raise ValueError(f"unknown shape {name!r}: choose one of {', '.join(SHAPES)}")
        return self.shape_index == SHAPES.index(name)

    def to_local(self, vector: Float[Tensor, "*#b 3"]) -> Float[Tensor, "*#b 3"]:
        """A vector of the world in the solid's local coordinates: along its axes, in units of its half extents."""
        return torch.stack(torch.broadcast_tensors(*self.local_components(vector)), -1)

    def local_components(self, vector: Float[Tensor, "*#b 3"]) -> tuple[Tensor, Tensor, Tensor]:
        """The three components of `to_local`, each (*b,)."""
        x, y, z = vector.unbind(-1)
        cos, sin = self.axis.unbind(-1)
        length, width, height = self.half_extents.unbind(-1)
        return (cos * x + sin * y) / length, (cos * y - sin * x) / width, z / height

    def to_world_normal(self, local_normal: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3"]:
        """The unit normal in the world of a normal of any length in the solid's local coordinates."""
        x, y, z = torch.nn.functional.normalize(local_normal / self.half_extents, dim=-1).unbind(-1)
        cos, sin = self.axis.unbind(-1)
        return torch.stack([cos * x - sin * y, sin * x + cos * y, z], -1)


def outward_normal(solid: Solids, local_point: Float[Tensor, "b m p 3"]) -> Float[Tensor, "b m p 3"]:
    """The outward normal at a point of the solid's surface, of any length. Both are in local coordinates.

    A box's normal is along the axis of the largest coordinate. A cylinder's is vertical on its caps, and horizontal
    between them. A sphere's is the point itself.
    """
    height, radius = local_point[..., 2:].abs(), local_point[..., :2].norm(dim=-1, keepdim=True)
    vertical, horizontal = local_point.new_tensor([0.0, 0.0, 1.0]), local_point.new_tensor([1.0, 1.0, 0.0])
    cylinder_normal = local_point * torch.where(height > radius, vertical, horizontal)
    box_normal = torch.where(local_point.abs() == local_point.abs().amax(-1, keepdim=True), local_point, 0)
    normal = torch.where(solid.has_shape("cylinder")[..., None], cylinder_normal, local_point)
    return torch.where(solid.has_shape("box")[..., None], box_normal, normal)


# --- intersections ----------------------------------------------------------------------------------------------------


class Interval(NamedTuple):
    """The part of each ray inside of a convex body, from one distance to another; empty unless near < far."""

    near: Float[Tensor, "*b"]
    far: Float[Tensor, "*b"]

    def intersection(self, other: "Interval") -> "Interval":
        return Interval(torch.maximum(self.near, other.near), torch.minimum(self.far, other.far))


def intersect_slab(o: Float[Tensor, "*#b"], d: Float[Tensor, "*#b"]) -> Interval:
    """The part of each ray in the slab |x| <= 1, where o and d are the ray's origin and direction along x."""
    inverse_d = 1 / torch.where(d.abs() < 1e-9, 1e-9, d)
    middle, half_length = -o * inverse_d, inverse_d.abs()
    return Interval(middle - half_length, middle + half_length)


def intersect_ball(o: tuple[Float[Tensor, "*#b"], ...], d: tuple[Float[Tensor, "*#b"], ...]) -> Interval:
    """The part of each ray in the ball |x| <= 1, a disc for two components. o and d are given by their components."""
    d_squared = _dot(d, d).clamp(min=1e-12)
    closest = -_dot(o, d) / d_squared  # distance of the ray's point that is closest to the centre
    closest_point = tuple(a + closest * b for a, b in zip(o, d, strict=True))
    half_chord = ((1 - _dot(closest_point, closest_point)).clamp(min=0) / d_squared).sqrt()
    return Interval(closest - half_chord, closest + half_chord)


def _dot(a: tuple[Float[Tensor, "*#b"], ...], b: tuple[Float[Tensor, "*#b"], ...]) -> Float[Tensor, "*b"]:
    """The dot product of vectors that are given by their components."""
    product, *others = (x * y for x, y in zip(a, b, strict=True))
    return sum(others, product)


def intersect(
    solid: Solids, origins: Float[Tensor, "b #m #p 3"], directions: Float[Tensor, "b #m #p 3"]
) -> Float[Tensor, "b m p"]:
    """The distance at which each ray enters a solid.

    The distance is 0 for a ray that starts inside, and inf for a ray that misses the solid. In the solid's local
    coordinates all shapes lie in the slab |z| <= 1. There, a box is |x|, |y| <= 1; a cylinder is x^2 + y^2 <= 1; a
    sphere is x^2 + y^2 + z^2 <= 1.
    """
    o, d = solid.local_components(origins - solid.centre), solid.local_components(directions)
    x_slab, y_slab, z_slab = map(intersect_slab, o, d)
    box = x_slab.intersection(y_slab)
    cylinder, sphere = intersect_ball(o[:2], d[:2]), intersect_ball(o, d)
    is_box, is_cylinder = solid.has_shape("box"), solid.has_shape("cylinder")
    ends = (
        torch.where(is_box, a, torch.where(is_cylinder, b, c)) for a, b, c in zip(box, cylinder, sphere, strict=True)
    )
    near, far = z_slab.intersection(Interval(*ends))
    return torch.where((near < far) & (far > 0) & solid.present, near.clamp(min=0), torch.inf)


def closest_hit(
    solids: Solids, origins: Float[Tensor, "b #m #p 3"], directions: Float[Tensor, "b #m #p 3"]
) -> tuple[Float[Tensor, "b m p"], Int[Tensor, "b m p"]]:
    """The distance from each ray's origin to the closest solid, inf where the ray hits none, and that solid's index."""
    num_solids = solids.shape_index.shape[1]
    return torch.stack([intersect(solids.select(i), origins, directions) for i in range(num_solids)], -1).min(-1)


def occluder_distance(
    solids: Solids,
    points: Float[Tensor, "b #m p 3"],
    normals: Float[Tensor, "b #m p 3"],
    directions: Float[Tensor, "b #m #p 3"],
) -> Float[Tensor, "b m p"]:
    """The distance from points on surfaces to the closest solid in a direction, inf where there is none."""
    return closest_hit(solids, points + SURFACE_OFFSET * normals, directions)[0]


class HitRecord(NamedTuple):
    """The closest hits of M x P rays for each of B scenes."""

    distance: Float[Tensor, "b m p"]  # along the ray, in units of the length of the ray's direction; inf: no hit
    point: Float[Tensor, "b m p 3"]
    normal: Float[Tensor, "b m p 3"]
    solid_index: Int[Tensor, "b m p"]
    solid: Solids
    local_point: Float[Tensor, "b m p 3"]  # the point in the solid's local coordinates
    local_normal: Float[Tensor, "b m p 3"]  # the outward normal there, of any length


def hit_record(solids: Solids, origins: Float[Tensor, "b m #p 3"], directions: Float[Tensor, "b m p 3"]) -> HitRecord:
    """The closest hit of each ray: its point, normal and solid."""
    distance, solid_index = closest_hit(solids, origins, directions)
    solid = solids.select(solid_index)
    point = origins + torch.where(distance < torch.inf, distance, 0)[..., None] * directions
    local_point = solid.to_local(point - solid.centre)
    local_normal = outward_normal(solid, local_point)
    normal = solid.to_world_normal(local_normal)
    return HitRecord(distance, point, normal, solid_index, solid, local_point, local_normal)
