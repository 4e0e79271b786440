"""Observations fit together, drop without leaking, and say what is wrong."""

import pytest
import torch

from fwdiff_lite.crops import composite_crops, crop_mask
from fwdiff_lite.observations import Observations, gather_pixels


def some(b=4, m=3, obs=(2, 5), par=(2,), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Observations(torch.randn(b, m, *obs, generator=generator), torch.randn(b, m, *par, generator=generator))


def test_indexing_keeps_values_params_and_mask_together():
    x = some()
    rows = torch.tensor([2, 0])
    assert torch.equal(x[rows].value, x.value[rows]) and torch.equal(x[rows].params, x.params[rows])
    assert len(x[1]) == 1 and torch.equal(x[1].value[0], x.value[1])
    assert torch.equal(x[-1].value[0], x.value[3])
    assert x.select([1]).value.shape == (4, 1, 2, 5)


def test_append_then_take_gives_back_the_parts():
    x, y = some(m=2), some(m=1, seed=1)
    both = x.append(y)
    assert torch.equal(both.select(slice(0, 2)).value, x.value) and torch.equal(both.select([2]).params, y.params)


def test_repeat_is_in_a_row():
    x = some().repeat(3)
    assert torch.equal(x.value[0], x.value[2]) and not torch.equal(x.value[2], x.value[3])


def test_nothing_of_a_dropped_observation_is_left():
    x = some()
    drop_mask = torch.zeros(4, 3, dtype=torch.bool)
    drop_mask[1, 2] = True
    y = x.mask_out(drop_mask)
    assert not y.mask[1, 2] and y.value[1, 2].abs().sum() == 0
    assert torch.equal(y.value[~drop_mask], x.value[~drop_mask])
    nan = Observations(torch.where(drop_mask[..., None, None], torch.nan, x.value), x.params).mask_out(drop_mask)
    assert torch.isfinite(nan.value).all(), "a NaN under the mask must not survive"


def test_gather_takes_the_named_places():
    x = some(obs=(3, 4, 5)).value
    at = torch.randint(20, (4, 3, 7))
    picked = gather_pixels(x, at)
    assert picked.shape == (4, 3, 3, 7)
    assert torch.equal(picked[2, 1, :, 6], x[2, 1].flatten(1)[:, at[2, 1, 6]])


@pytest.mark.parametrize(
    "value, params, mask, message",
    [
        ((4,), (4, 3, 2), None, r"value \(B, M, \*obs\)"),
        ((4, 3), (4, 2, 2), None, "params are for 4 signals with 2 observations each"),
        ((4, 3), (5, 3, 2), None, "params are for 5 signals"),
        ((4, 3), (4, 3, 2), (4, 2), r"mask must be bool of shape \(4, 3\)"),
    ],
)
def test_what_does_not_fit_is_named(value, params, mask, message):
    mask = None if mask is None else torch.ones(mask, dtype=torch.bool)
    with pytest.raises(ValueError, match=message):
        Observations(torch.zeros(value), torch.zeros(params), mask)


def test_check_refuses_nan_infinity_and_emptiness():
    x = some()
    assert x.check() is x
    for bad in (torch.nan, torch.inf):
        value = x.value.clone()
        value[0, 0, 0, 0] = bad
        with pytest.raises(ValueError, match="context holds 1 NaN or infinite values"):
            Observations(value, x.params).check()
    with pytest.raises(ValueError, match="novel has NaN or infinite params"):
        Observations(x.value, x.params * torch.inf).check("novel")
    empty = x.mask_out(torch.tensor([[True], [False], [False], [True]]))
    with pytest.raises(ValueError, match="context is empty for 2 of 4 signals"):
        empty.check()
    empty.check(allow_empty=True)


def test_append_refuses_another_canvas():
    with pytest.raises(ValueError, match=r"cannot append observations with value \(4, 3, 2, 6\)"):
        some().append(some(obs=(2, 6)))


def test_windows_are_counted_by_hand_and_merged():
    params = torch.tensor([[[0.0, 1.0, 2.0], [1.0, 2.0, 2.0], [3.0, 0.0, 1.0]]])
    mask = crop_mask(params, 4)
    assert mask.shape == (1, 3, 4, 4) and mask.sum((2, 3)).tolist() == [[4, 4, 1]]
    assert mask[0, 0].nonzero().tolist() == [[0, 1], [0, 2], [1, 1], [1, 2]] and mask[0, 2, 3, 0] == 1
    picture, seen = composite_crops(mask * torch.tensor([1.0, 3.0, 5.0]).view(1, 3, 1, 1), mask)
    wanted = torch.tensor([[0.0, 1, 1, 0], [0, 1, 2, 3], [0, 0, 3, 3], [5, 0, 0, 0]])
    assert torch.equal(picture[0], wanted) and torch.equal(seen[0], (wanted > 0).float())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_values_without_a_floating_type_are_refused(dtype):
    """Times and noise take the type of the values: of integers a model would learn at t = 0, with a loss of 0."""
    value = torch.zeros(4, 1, 3, dtype=dtype)
    with pytest.raises(ValueError, match=f"need a floating type, got value of {dtype}: scale pictures to"):
        Observations(value, torch.ones(4, 1, 2))


def test_iterating_over_signals_ends():
    x = some(b=3)
    assert [float(row.value.sum()) for row in x] == [float(x[i].value.sum()) for i in range(3)]
    with pytest.raises(IndexError):
        x[3]


def test_the_mask_follows_the_values():
    """A stand-in for a GPU: only the type is given, so the device must stay."""
    x = Observations(torch.zeros(2, 1, 3, device="meta"), torch.zeros(2, 1, 2, device="meta"))
    assert x.to(torch.float64).mask.device.type == "meta" and x.to(torch.float64).value.dtype == torch.float64
