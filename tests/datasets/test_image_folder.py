"""Pictures of any shape become squares of one size; what cannot be read is named."""

import imageio.v3 as imageio
import numpy as np
import pytest
import torch

from fwdiff_lite.datasets.image_folder import read_portraits


def test_pictures_are_cut_in_the_middle_and_brought_to_one_size(tmp_path):
    wide = np.zeros((32, 64, 3), np.uint8)
    wide[:, 16:48] = 255  # the square in the middle is white
    imageio.imwrite(tmp_path / "b.png", wide)
    imageio.imwrite(tmp_path / "a.png", np.full((48, 16), 51, np.uint8))  # grey
    found = read_portraits(tmp_path, 16)
    assert found.shape == (2, 3, 16, 16)
    assert torch.allclose(found[0], torch.tensor(2 * 51 / 255 - 1)) and torch.all(found[1] == 1)


def test_what_is_no_folder_of_pictures_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is not a folder: give one that holds pictures"):
        read_portraits(tmp_path / "none")
    with pytest.raises(ValueError, match="holds no picture: wanted files"):
        read_portraits(tmp_path)
    imageio.imwrite(tmp_path / "small.png", np.zeros((8, 9, 3), np.uint8))
    with pytest.raises(ValueError, match="small.png has frames of 8x9 pixels: wanted at least 16x16"):
        read_portraits(tmp_path, 16)
    (tmp_path / "small.png").write_text("no picture")
    with pytest.raises(ValueError, match="small.png cannot be read"):
        read_portraits(tmp_path, 16)
