"""Checks of arguments break no compiled_function graph, and read no value from a GPU."""

import math
from fractions import Fraction

import pytest
import torch

from fwdiff_lite.backbones import MLP
from fwdiff_lite.checks import check_interval, check_positive, check_values_on_cpu
from fwdiff_lite.crops import composite_crops, crop_mask
from fwdiff_lite.problems.inverse_graphics.cameras import look_at
from fwdiff_lite.problems.inverse_graphics.volume import VolumeRenderer
from fwdiff_lite.problems.motion.warping import SoftmaxSplat, single_flow_signal

T, IMAGES = torch.full((2,), 0.5), torch.zeros(2, 3, 8, 8)
RENDERER = VolumeRenderer((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0), height=2, width=2, samples_per_ray=3)
CAMERAS = look_at(torch.tensor([[3.0, 0.0, 1.0]]), torch.zeros(1, 3), 1.0)[:, None]
SPLAT = SoftmaxSplat()
CROPS = torch.tensor([[[1.0, 1.0, 3.0]]])


def field(points):
    return points.square().sum(-1), points


CHECKED = {
    "MLP": (MLP(3, 2, width=8, depth=1), (torch.zeros(2, 3), T)),
    "crops": (lambda params: composite_crops(crop_mask(params, 8), crop_mask(params, 8)), (CROPS,)),
    "splat": (lambda flow: SPLAT(single_flow_signal(IMAGES, flow), T.view(2, 1, 1)), (IMAGES[:, :2],)),
    "renderer": (lambda index: RENDERER(field, CAMERAS, index), (torch.ones(1, 1, 2, dtype=torch.long),)),
}


@pytest.mark.usefixtures("no_shape_checks")  # beartype itself would break the graph
@pytest.mark.parametrize("name", CHECKED)
def test_a_checked_function_compiles_to_one_graph(name):
    function, arguments = CHECKED[name]
    compiled_function = torch.compile(function, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled_function(*arguments), function(*arguments))


def test_values_are_read_on_the_cpu_alone():
    with pytest.raises(ValueError, match="wrong"):
        check_values_on_cpu(lambda: torch.ones(2, dtype=torch.bool), "wrong")
    check_values_on_cpu(lambda: torch.ones(2, dtype=torch.bool, device="meta"), "a meta tensor has no values to read")


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize("check", [check_positive, lambda **numbers: check_interval(0, math.inf, **numbers)])
def test_a_finite_number_is_a_real_one_that_a_float_can_hold(check):
    for number in (1, 0.5, Fraction(1, 2), 10**300):
        check(x=number)
    for number in (True, 10**400, math.inf, math.nan, -1, "1", None, 1j, torch.ones(())):
        with pytest.raises(ValueError, match="^got x = .*, wanted a finite number"):
            check(x=number)
