"""Bad input to fwdiff_lite.observations, schedule.check_time among it."""

import torch

from fwdiff_lite.observations import Observations, gather_pixels, observation_std, to_device
from fwdiff_lite.schedule import check_time

VALUE, PARAMS, MASK = torch.ones(4, 3, 2), torch.ones(4, 3, 1), torch.ones(4, 3, dtype=torch.bool)
IMAGES, PIXELS = torch.ones(4, 3, 2, 5, 5), torch.zeros(4, 3, 7, dtype=torch.long)
SEEN = Observations(VALUE, PARAMS)


def with_value(x):
    return Observations(torch.where(torch.arange(2) == 1, x, VALUE), PARAMS)


CASES = [
    ("value absent", lambda: Observations(None, PARAMS), "value is of type NoneType: observations hold torch tensors"),
    ("value list", lambda: Observations([[1.0]], PARAMS), "value is of type list"),
    ("value numpy", lambda: Observations(VALUE.numpy(), PARAMS), "value is of type ndarray"),
    ("value Observations", lambda: Observations(SEEN, PARAMS), "value is of type Observations"),
    ("value scalar", lambda: Observations(torch.ones(()), PARAMS), "need a batch and a count"),
    ("value without count", lambda: Observations(torch.ones(4), PARAMS), "need a batch and a count"),
    ("value uint8", lambda: Observations(VALUE.byte(), PARAMS), r"floating type.*scale pictures to \[-1, 1\]"),
    ("value int", lambda: Observations(VALUE.long(), PARAMS), "need a floating type"),
    ("value bool", lambda: Observations(VALUE.bool(), PARAMS), "need a floating type"),
    ("value complex", lambda: Observations(VALUE.cfloat(), PARAMS), r"torch.view_as_real\(value\)"),
    ("value of another batch", lambda: Observations(VALUE[:2], PARAMS), "params are for 4 signals"),
    ("value of another count", lambda: Observations(VALUE[:, :2], PARAMS), "with 3 observations each"),
    ("params absent", lambda: Observations(VALUE, None), "params is of type NoneType"),
    ("params list", lambda: Observations(VALUE, [1.0]), "params is of type list"),
    ("params without count", lambda: Observations(VALUE, torch.ones(4)), "need a batch and a count"),
    ("params int", lambda: Observations(VALUE, PARAMS.long()), "params need a floating type.*params.float()"),
    ("params bool", lambda: Observations(VALUE, PARAMS.bool()), "params need a floating type"),
    ("params of another batch", lambda: Observations(VALUE, PARAMS[:2]), "params are for 2 signals"),
    ("params of another device", lambda: Observations(VALUE, PARAMS.to("meta")), "lie on cpu, meta and cpu: move them"),
    ("mask float", lambda: Observations(VALUE, PARAMS, MASK.float()), "mask must be bool of shape"),
    ("mask list", lambda: Observations(VALUE, PARAMS, [True]), "mask is of type list"),
    ("mask of another count", lambda: Observations(VALUE, PARAMS, MASK[:, :2]), r"mask must be bool of shape \(4, 3\)"),
    ("mask of the values' shape", lambda: Observations(VALUE, PARAMS, MASK[..., None]), "mask must be bool of shape"),
    ("no signals", lambda: Observations(VALUE[:0], PARAMS[:0]), None),
    ("no observations", lambda: Observations(VALUE[:, :0], PARAMS[:, :0]), None),
    ("index float", lambda: SEEN[1.5], "of type float is no index"),
    ("index text", lambda: SEEN["a"], "of type str is no index"),
    ("index absent", lambda: SEEN[None], "of type NoneType is no index"),
    ("index bool", lambda: SEEN[True], "of type bool is no index"),
    ("index float tensor", lambda: SEEN[torch.ones(2)], r"a tensor of torch.float32 \(2,\) is no index"),
    ("index mask of signals and observations", lambda: SEEN[MASK], r"a tensor of torch.bool \(4, 3\) is no index"),
    ("index of two axes", lambda: SEEN[[[0, 1]]], "is no index"),
    ("slice beyond the end", lambda: SEEN[2:9], None),
    ("index empty", lambda: SEEN[[]], None),
    ("select text", lambda: SEEN.select("a"), "of type str is no index"),
    ("select float", lambda: SEEN.select(torch.ones(1)), "is no index"),
    ("append absent", lambda: SEEN.append(None), "other is of type NoneType: wanted Observations"),
    ("append a tensor", lambda: SEEN.append(VALUE), r"other is a tensor of torch.float32 \(4, 3, 2\)"),
    ("append another batch", lambda: SEEN.append(SEEN[:2]), "cannot append observations with value"),
    ("append another canvas", lambda: SEEN.append(Observations(VALUE[..., :1], PARAMS)), "all but the second size"),
    ("append other params", lambda: SEEN.append(Observations(VALUE, VALUE)), "cannot append observations with params"),
    ("append another type", lambda: SEEN.append(SEEN.to(torch.float64)), "cannot append observations of torch.float64"),
    ("mask_out absent", lambda: SEEN.mask_out(None), "drop_mask is of type NoneType: wanted a bool tensor"),
    ("mask_out int", lambda: SEEN.mask_out(MASK.long()), "drop_mask is a tensor of torch.int64"),
    ("mask_out without batch", lambda: SEEN.mask_out(MASK[0]), r"drop_mask has shape \(3,\): wanted \(4, 3\) or"),
    ("mask_out of another batch", lambda: SEEN.mask_out(MASK[:2]), "drop_mask has shape"),
    ("repeat 0", lambda: SEEN.repeat(0), "got k = 0, wanted a whole number of at least 1"),
    ("repeat -1", lambda: SEEN.repeat(-1), "got k = -1"),
    ("repeat 1.5", lambda: SEEN.repeat(1.5), "got k = 1.5"),
    ("repeat absent", lambda: SEEN.repeat(None), "got k = None"),
    ("to int", lambda: SEEN.to(torch.int64), "need a floating type"),
    ("check NaN", lambda: with_value(torch.nan).check(), "context holds 12 NaN or infinite values of 24"),
    ("check infinity", lambda: with_value(torch.inf).check("novel"), "novel holds 12 NaN or infinite"),
    ("check NaN params", lambda: Observations(VALUE, PARAMS * torch.nan).check(), "NaN or infinite params"),
    ("check empty", lambda: SEEN.mask_out(MASK).check(), "context is empty for 4 of 4 signals"),
    ("check masked NaN", lambda: Observations(VALUE * torch.nan, PARAMS, ~MASK).check(allow_empty=True), None),
    ("std of a tensor", lambda: observation_std(VALUE), "observations is a tensor"),
    ("std of nothing", lambda: observation_std(SEEN.mask_out(MASK)), "observations are all masked"),
    ("std of NaN", lambda: observation_std(with_value(torch.nan)), "observations holds 12 NaN"),
    ("std with a support of another count", lambda: observation_std(SEEN, MASK[:, :2, None]), "support is a tensor of"),
    ("std with a support of no canvas", lambda: observation_std(SEEN, MASK), r"observations \(4, 3, 2\): wanted this"),
    ("std with a support", lambda: observation_std(SEEN, MASK[..., None]), None),
    ("pixels of values", lambda: gather_pixels(VALUE, PIXELS), r"pixels are of images .* got values \(4, 3, 2\)"),
    ("pixels float", lambda: gather_pixels(IMAGES, PIXELS.float()), "pixel_indices is a tensor of torch.float32"),
    ("pixels int32", lambda: gather_pixels(IMAGES, PIXELS.int()), "wanted torch.int64"),
    ("pixels without count", lambda: gather_pixels(IMAGES, PIXELS[0]), "wanted torch.int64 .B, M, n."),
    ("pixels of another batch", lambda: gather_pixels(IMAGES, PIXELS[:2]), "for images"),
    ("pixels beyond", lambda: gather_pixels(IMAGES, PIXELS + 25), "pixel_indices run from 25 to 25: wanted 0 to 24"),
    ("pixels negative", lambda: gather_pixels(IMAGES, PIXELS - 1), "pixel_indices run from -1 to -1"),
    ("no pixels", lambda: gather_pixels(IMAGES, PIXELS[..., :0]), None),
    ("to_device of a list", lambda: to_device([1], "cpu"), "an argument of type list cannot be moved to cpu"),
    ("time below", lambda: check_time(torch.tensor([-0.1])), r"t must lie in \[0, 1\]"),
    ("time above", lambda: check_time(torch.tensor([1.5])), r"t must lie in \[0, 1\]"),
    ("time NaN", lambda: check_time(torch.tensor([torch.nan])), r"t must lie in \[0, 1\]"),
]
