"""A folder of images, for example of faces: training data for a generator in place of problems/gan_inversion/portraits.

Images are cropped to the square at their centre, resized to one size, and scaled to [-1, 1]. The folder may have
sub-folders, as FFHQ has, or be a zip archive.
"""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from fwdiff_lite.datasets.images import (
    BACKGROUND,
    IMAGE_SUFFIXES,
    check_options,
    crop_and_resize,
    find_image_files,
    open_folder,
    read_image,
)


def read_images(
    folder: Path | str, size: int = 64, background: tuple[int, int, int] = BACKGROUND
) -> Float[Tensor, "n 3 size size"]:
    """Reads all images of a folder and of its sub-folders, in the natural order of their names: 1, 2, 10.

    folder: a folder, or a zip archive
    size: pixels along each side of the result
    background: the colour behind transparent pixels, 0 to 255
    ValueError if there is no image, if an image is smaller than `size`, or as in `images.read_image`.
    """
    check_options(size, background)
    files = find_image_files(open_folder(folder, "images"))
    if not files:
        raise ValueError(f"{folder} holds no image: wanted files ({', '.join(IMAGE_SUFFIXES)})")
    return torch.cat([crop_and_resize(read_image(file, background)[None], size, file) for file in files])
