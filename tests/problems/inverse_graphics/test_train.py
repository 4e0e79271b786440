"""The training of the 3-D models, at toy size: it is resumed, and leaves what it says."""

import pytest
import torch
from safetensors.torch import load_file

from fwdiff_lite.files import read_json
from fwdiff_lite.pretrained import FILE_MB
from fwdiff_lite.problems.inverse_graphics import train

TINY = {"side": 16, "samples": 8, "width": 16}
ENCODERS = {"unet": {"widths": (8, 16)}, "dit": {"width": 16, "depth": 1, "heads": 2}}


@pytest.mark.parametrize("arm", train.ARMS)
def test_a_training_is_gone_on_with(arm, tmp_path):
    options = TINY | ENCODERS[train.ARMS[arm][1]]
    train.train(train.untrained(arm, **options), tmp_path, arm, size=2, pixels=16, steps=2)
    model = train.untrained(arm, **options)
    before = {key: value.clone() for key, value in model.denoiser.state_dict().items()}
    done = train.train(model, tmp_path, arm, size=2, pixels=16, steps=4)
    assert done.steps == 4 and len(done.curve["loss"]) == 4
    assert set(done.curve) == {"loss", "target", "estimate"} | ({"novel"} if arm != "no_novel" else set())
    weights = load_file(tmp_path / f"{arm}.safetensors")
    assert weights.keys() == before.keys() and any((weights[key].float() != before[key]).any() for key in weights)
    record = read_json(tmp_path / f"{arm}.json")
    assert record["steps"] == 4 and record["batch"] == 2 and record["minutes"] > 0


def test_the_models_are_of_the_size_that_may_be_shipped():
    """At most 15 megabytes in half precision."""
    for arm in train.ARMS:
        with torch.device("meta"):
            model = train.untrained(arm)
        assert 2e6 < sum(w.numel() for w in model.parameters()) < FILE_MB * 1e6 / 2, arm


def test_unknown_arms_are_refused():
    with pytest.raises(ValueError, match="unknown arm 'vit': choose one of unet, dit, no_novel, around, deterministic"):
        train.untrained("vit")
