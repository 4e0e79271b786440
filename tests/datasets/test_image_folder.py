"""Images of any shape become squares of one size; unreadable files are refused by name."""

import imageio.v3 as imageio
import numpy as np
import pytest
import torch

from fwdiff_lite.datasets.image_folder import read_images


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
