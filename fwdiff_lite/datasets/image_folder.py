"""A folder of images, for example of faces: training data for a generator in place of problems/gan_inversion/portraits.

Images (png, jpg) are cropped to the square at their centre, resized to one size, and scaled to [-1, 1].
"""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from fwdiff_lite.datasets.videos import IMAGE_SUFFIXES, crop_and_resize, image_files, read_frames


def read_images(folder: Path | str, size: int = 64) -> Float[Tensor, "n 3 size size"]:
    """Reads all images of a folder, in the order of their names.

    size: pixels along each side of the result
    ValueError if there is no image, or if an image cannot be read, is smaller than `size`, or has more than 8 bits a
    channel.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: give one that holds images")
    files = image_files(folder)
    if not files:
        raise ValueError(f"{folder} holds no image: wanted files ({', '.join(IMAGE_SUFFIXES)})")
    return torch.cat([crop_and_resize(read_frames(file, single_image=True)[0][None], size, file) for file in files])
