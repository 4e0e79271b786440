"""Images of any shape become squares of one size; unreadable files are refused by name."""

import shutil

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from PIL import Image

from fwdiff_lite.datasets.image_folder import ImageFolder, read_images


def test_images_are_cropped_at_their_centre_and_resized(tmp_path):
    wide = np.zeros((32, 64, 3), np.uint8)
    wide[:, 16:48] = 255  # the square at the centre is white
    imageio.imwrite(tmp_path / "b.png", wide)
    imageio.imwrite(tmp_path / "a.png", np.full((48, 16), 51, np.uint8))  # grey
    images = read_images(tmp_path, 16)
    assert images.shape == (2, 3, 16, 16)
    assert torch.allclose(images[0], torch.tensor(2 * 51 / 255 - 1)) and torch.all(images[1] == 1)


def test_an_invalid_folder_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="is not a folder: give one that holds images"):
        read_images(tmp_path / "none")
    with pytest.raises(ValueError, match="holds no image: wanted files"):
        read_images(tmp_path)
    imageio.imwrite(tmp_path / "small.png", np.zeros((8, 9, 3), np.uint8))
    with pytest.raises(ValueError, match="small.png has frames of 8x9 pixels: wanted at least 16x16"):
        read_images(tmp_path, 16)
    (tmp_path / "small.png").write_text("not an image")
    with pytest.raises(ValueError, match="small.png cannot be read"):
        read_images(tmp_path, 16)


@pytest.mark.parametrize("archive", [False, True])
def test_headers_are_checked_before_the_images_are_read(tmp_path, archive):
    """The first images are right, so a training would begin, and end hours later."""
    grey, folder = np.zeros((16, 20), np.uint8), tmp_path / "faces"
    folder.mkdir()
    imageio.imwrite(folder / "1.png", grey)
    imageio.imwrite(folder / "2.png", grey)

    def images():
        path = shutil.make_archive(str(folder), "zip", folder) if archive else folder
        return ImageFolder(path, 16)

    images().check()
    for content, message in (
        ([grey[:8]], "3.png has 20 x 8 pixels, wanted at least 16 x 16: remove it, or give a smaller resolution"),
        ([grey, grey + 9], "3.png has 2 images: wanted one image a file"),
    ):
        Image.fromarray(content[0]).save(
            folder / "3.png", save_all=True, append_images=[Image.fromarray(x) for x in content[1:]]
        )
        with pytest.raises(ValueError, match=message):
            images().check()
        images().check(2)
    (folder / "3.png").write_bytes(b"")
    with pytest.raises(ValueError, match="3.png cannot be read: it is damaged"):
        images().check()
    Image.fromarray(grey.astype(np.float32)).save(folder / "3.png", format="TIFF")
    with pytest.raises(ValueError, match="3.png has pixels of 32 bits or of floating point"):
        images().check()


def test_the_digest_is_that_of_the_first_files(tmp_path):
    for name in "123":
        imageio.imwrite(tmp_path / f"{name}.png", np.full((16, 16), int(name), np.uint8))
    images, first = ImageFolder(tmp_path, 16), ImageFolder(tmp_path, 16).sha256(2)
    (tmp_path / "3.png").write_bytes(b"another")
    assert images.sha256(2) == first
    (tmp_path / "2.png").write_bytes(b"another")
    assert images.sha256(2) != first
