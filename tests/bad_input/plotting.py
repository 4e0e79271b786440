"""Bad input to fwdiff_lite.plotting, colours, crops, and to a notebook's pictures."""

import math

import numpy as np
import torch

from fwdiff_lite.colours import hsv_to_rgb, to_uint8
from fwdiff_lite.crops import composite_crops, crop_mask
from fwdiff_lite.pipeline.notebook import Run
from fwdiff_lite.plotting import depth_to_rgb, figure_to_rgb, flow_to_rgb, flow_wheel, image_grid, to_numpy

GRID = np.zeros((1, 2, 4, 4))
FLOW = torch.zeros(4, 4, 2)
DEPTH = torch.ones(4, 4)
CROP = torch.tensor([[[1.0, 1.0, 3.0]]])
CANVAS = torch.zeros(1, 1, 8, 8)
FRAMES = [np.zeros((4, 4, 3), np.uint8)] * 2

CASES = [
    ("image_grid rank", lambda: image_grid(GRID[0]), r"images have shape \(2, 4, 4\)"),
    ("image_grid four channels", lambda: image_grid(np.zeros((1, 2, 4, 4, 4))), r"give \(rows, cols, h, w\[, 3\]\)"),
    ("image_grid no rows", lambda: image_grid(GRID[:0]), r"images have shape \(0, 2, 4, 4\)"),
    ("image_grid no pixels", lambda: image_grid(GRID[..., :0]), r"images have shape \(1, 2, 4, 0\)"),
    ("image_grid nan", lambda: image_grid(GRID * math.nan), "no finite value"),
    ("image_grid labels", lambda: image_grid(GRID, row_labels=["a", "b"]), "row_labels has 2 entries, wanted 1"),
    ("image_grid titles", lambda: image_grid(GRID, col_titles=["a"]), "col_titles has 1 entries, wanted 2"),
    ("image_grid size zero", lambda: image_grid(GRID, size=0), "got size = 0"),
    ("image_grid size nan", lambda: image_grid(GRID, size=math.nan), "got size = nan"),
    ("image_grid words", lambda: image_grid([["a", "b"]]), "wanted real numbers"),
    ("image_grid none", lambda: image_grid(None), "wanted real numbers"),
    ("flow_to_rgb rank", lambda: flow_to_rgb(FLOW[0]), r"flow has shape \(4, 2\)"),
    ("flow_to_rgb channels first", lambda: flow_to_rgb(FLOW.movedim(-1, 0)), r"flow has shape \(2, 4, 4\)"),
    ("flow_to_rgb nan", lambda: flow_to_rgb(FLOW * math.nan), "flow holds 32 NaN or infinite values"),
    ("flow_to_rgb length zero", lambda: flow_to_rgb(FLOW, 0), "got max_length = 0"),
    ("flow_to_rgb length nan", lambda: flow_to_rgb(FLOW, math.nan), "got max_length = nan"),
    ("flow_to_rgb integers", lambda: flow_to_rgb(FLOW.long() + 1), None),
    ("flow_wheel zero", lambda: flow_wheel(0), "got size = 0"),
    ("flow_wheel half", lambda: flow_wheel(6.5), "got size = 6.5"),
    ("depth_to_rgb rank", lambda: depth_to_rgb(DEPTH[0]), r"depth has shape \(4,\)"),
    ("depth_to_rgb nan", lambda: depth_to_rgb(DEPTH * math.nan), "no finite value: give near and far"),
    ("depth_to_rgb near above far", lambda: depth_to_rgb(DEPTH, 2.0, 1.0), "give near below far"),
    ("depth_to_rgb near nan", lambda: depth_to_rgb(DEPTH, math.nan, 1.0), "near is nan"),
    ("figure_to_rgb none", lambda: figure_to_rgb(None), "fig is a NoneType, wanted a matplotlib Figure"),
    ("to_numpy complex", lambda: to_numpy(torch.zeros(2, dtype=torch.complex64)), "complex64, wanted real numbers"),
    ("to_uint8 one level", lambda: to_uint8(DEPTH, 1), "got num_levels = 1, wanted a whole number of at least 2"),
    ("to_uint8 nan", lambda: to_uint8(DEPTH * math.nan), "images holds 16 NaN"),
    ("to_uint8 bytes", lambda: to_uint8(DEPTH.byte()), "has the type torch.uint8, wanted a floating type"),
    ("to_uint8 outside", lambda: to_uint8(9 * DEPTH), None),
    ("to_uint8 empty", lambda: to_uint8(DEPTH[:0]), None),
    ("hsv_to_rgb integers", lambda: hsv_to_rgb(DEPTH.long(), 1.0, 1.0), "hue has the type torch.int64"),
    ("crop_mask size missing", lambda: crop_mask(CROP[..., :2], 8), r"params has shape \(1, 1, 2\), wanted \(..., 3\)"),
    ("crop_mask side", lambda: crop_mask(CROP, 0), "got side = 0"),
    ("crop_mask nan", lambda: crop_mask(CROP * math.nan, 8), "params hold NaN"),
    ("crop_mask integers", lambda: crop_mask(CROP.long(), 8), "params has the type torch.int64"),
    ("composite_crops canvas", lambda: composite_crops(CANVAS, CANVAS[..., :4]), r"support has shape \(1, 1, 8, 4\)"),
    ("composite_crops count", lambda: composite_crops(CANVAS, CANVAS.repeat(1, 2, 1, 1)), "support has shape"),
    ("save_gif fps", lambda: Run.save_gif(None, FRAMES, "name", fps=0), "got fps = 0"),
    ("save_gif fps nan", lambda: Run.save_gif(None, FRAMES, "name", fps=math.nan), "got fps = nan"),
    ("save_gif no frames", lambda: Run.save_gif(None, [], "name"), "frames of one shape .* got none"),
]
