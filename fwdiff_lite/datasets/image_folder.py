"""A folder of images, for example of faces: training data for a generator in place of problems/gan_inversion/portraits.

Images are cropped to the square at their centre, resized to one size, and scaled to [-1, 1]. The folder may have
sub-folders, as FFHQ has, or be a zip archive.
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from fwdiff_lite.checks import check_count
from fwdiff_lite.datasets.images import (
    BACKGROUND,
    IMAGE_SUFFIXES,
    check_image,
    check_options,
    crop_and_resize,
    find_image_files,
    open_folder,
    read_image,
)


class ImageFolder:
    """The images of a folder and of its sub-folders, in the natural order of their names: 1, 2, 10.

    Files are decoded when they are asked for, so the folder may be larger than the memory.

    folder: a folder, or a zip archive
    size: pixels along each side of an image
    background: the colour behind transparent pixels, 0 to 255
    threads: that decode the images of a batch. Files of a zip archive are decoded one after another.
    ValueError if there is no image.
    """

    def __init__(
        self, folder: Path | str, size: int = 64, background: tuple[int, int, int] = BACKGROUND, threads: int = 4
    ):
        check_options(size, background)
        check_count(threads=threads)
        self.folder, self.size, self.background, self.threads = Path(folder), size, background, threads
        self.files = find_image_files(open_folder(folder, "images"))
        if not self.files:
            raise ValueError(f"{folder} holds no image: wanted files ({', '.join(IMAGE_SUFFIXES)})")

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> Float[Tensor, "3 size size"]:
        """Image i. ValueError if it is smaller than `size`, or as in `images.read_image`."""
        file = self.files[i]
        return crop_and_resize(read_image(file, self.background)[None], self.size, file)[0]

    def check(self, count: int | None = None) -> None:
        """ValueError for the first of the first `count` images, None: of all, that is too small or cannot be read.

        Headers alone are read: 70,000 take half a minute. A file that is damaged behind its header is refused later.
        """
        for file in self.files[:count]:
            check_image(file, self.size)

    def sha256(self, count: int) -> str:
        """The sha256 of the content of the first `count` files, in hexadecimal digits."""
        digest = hashlib.sha256()
        for file in self.files[:count]:
            digest.update(hashlib.sha256(file.read_bytes()).digest())
        return digest.hexdigest()

    def sample(self, n: int, generator: torch.Generator) -> Float[Tensor, "n 3 size size"]:
        """n images, drawn with replacement, on the CPU. ValueError as for a single image."""
        rows = torch.randint(len(self), (n,), generator=generator).tolist()
        if not isinstance(self.files[0], Path):  # a zip archive has one position, which threads would share
            return torch.stack([self[i] for i in rows])
        with ThreadPoolExecutor(self.threads) as pool:
            return torch.stack(list(pool.map(self.__getitem__, rows)))


def read_images(
    folder: Path | str, size: int = 64, background: tuple[int, int, int] = BACKGROUND
) -> Float[Tensor, "n 3 size size"]:
    """Reads all images of an ImageFolder into memory. ValueError as there."""
    images = ImageFolder(folder, size, background)
    return torch.stack([images[i] for i in range(len(images))])
