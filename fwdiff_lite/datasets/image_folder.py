"""A folder of pictures, of faces or whatever else a generator is to learn: in place of problems/gan_inversion's own.

Pictures (png, jpg) are cut to a square in the middle, brought to one size, and scaled to [-1, 1].
"""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from fwdiff_lite.datasets.videos import IMAGE_SUFFIXES, crop_and_resize, image_files, read_frames


def read_portraits(folder: Path | str, size: int = 64) -> Float[Tensor, "n 3 size size"]:
    """All pictures of a folder, in the order of their names.

    ValueError where there is none, or one cannot be read, is smaller than `size` or has pixels of more than 8 bits.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: give one that holds pictures")
    found = image_files(folder)
    if not found:
        raise ValueError(f"{folder} holds no picture: wanted files ({', '.join(IMAGE_SUFFIXES)})")
    return torch.cat([crop_and_resize(read_frames(file, True)[0][None], size, file) for file in found])
