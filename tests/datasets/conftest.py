import shutil

import pytest
from clip_helpers import FRAME_GAP, NUM_FRAMES

from fwdiff_lite.datasets import pose_check
from fwdiff_lite.datasets.clip_folder import read_folder
from fwdiff_lite.problems.inverse_graphics.synthetic_realestate10k import write_clips


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """A folder of three clips, with the scene and the poses of each.

    The SIFT features of its frames are computed once, because many tests compare them with other poses.
    """
    folder = tmp_path_factory.mktemp("written")
    clips = write_clips(folder, 3, NUM_FRAMES)
    with pytest.MonkeyPatch.context() as patch:
        compute, cached = pose_check._sift_features, {}

        def features(clip, i):
            file = clip.files[i]
            if folder not in file.parents:
                return compute(clip, i)
            return cached[file] if file in cached else cached.setdefault(file, compute(clip, i))

        patch.setattr(pose_check, "_sift_features", features)
        yield folder, clips


@pytest.fixture(scope="session")
def clips(written):
    """The three clips, read without a check of their poses."""
    return read_folder(written[0], FRAME_GAP, check_poses=False)[0]


@pytest.fixture
def copy(written, tmp_path):
    """A folder with a copy of the first clip, to be damaged."""
    shutil.copytree(written[0] / "clip00", tmp_path / "clip00")
    shutil.copy(written[0] / "clip00.txt", tmp_path)
    return tmp_path
