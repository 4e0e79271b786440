"""What the notebooks claim, held against figures/metrics.json: the numbers of the last `make reproduce`."""

import pytest

from fwdiff_lite.pipeline.claims import is_within, missing_claim, read_claims
from fwdiff_lite.pipeline.notebook import notebook_names
from fwdiff_lite.storage.files import read_json, repo_root

CLAIMS = read_claims()  # what the notebooks' last cells stated in that run
CHECKS = [
    pytest.param(
        name, key, id=f"{name}-{key}", marks=[pytest.mark.xfail(strict=True, reason=why)] if why is not None else []
    )
    for name, claim in CLAIMS.items()
    for key in claim["bounds"]
    for why in [claim["shortfalls"].get(key)]
]


@pytest.fixture(scope="module")
def metrics():
    return read_json(repo_root() / "figures" / "metrics.json")


@pytest.mark.parametrize("name", notebook_names())
def test_every_notebook_makes_its_claim(name):
    assert not (lacking := missing_claim(name, CLAIMS)), lacking


def test_claims_are_those_of_the_notebooks():
    assert set(CLAIMS) <= set(notebook_names())


@pytest.mark.parametrize("name, key", CHECKS)
def test_must_show(metrics, name, key):
    assert key in metrics.get(name, {}), f"{name} did not record {key}"
    bound = CLAIMS[name]["bounds"][key]
    assert is_within(metrics[name][key], bound), f"{key} = {metrics[name][key]}, wanted within {bound}"


@pytest.mark.skipif("01_toy_proof" not in notebook_names(), reason="no 01_toy_proof yet")
def test_controls_fail(metrics):
    """The learnt model scores below every control, and every test rejects the controls that it can see."""
    numbers = metrics["01_toy_proof"]
    for control in ("mean", "shuffled", "prior", "x0.8", "x1.2"):
        assert numbers["joint_c2st"] < numbers[f"c2st_{control}"], control
    assert numbers["controls_missed"] == []


@pytest.mark.skipif("01_toy_proof" not in notebook_names(), reason="no 01_toy_proof yet")
def test_what_was_recorded_is_found_again(metrics):
    """A recorded training, run again on this machine, scores the same within the test's own spread."""
    numbers = metrics["01_toy_proof"]
    spread = numbers["c2st_null_sd"]
    assert numbers["finite_live_c2st"] == pytest.approx(numbers["finite_recorded_c2st"], abs=5 * spread)
    assert numbers["sbc_least_p"] > 0.01, "the learnt model's ranks are uniform"
    assert numbers["sbc_p_exact"] > 0.01 and numbers["tarp_exact"] < 0.043, "and so are the truth's"
    assert numbers["bump_two_layers"] == pytest.approx(0.6, abs=0.01), "the remedy that repairs all"


@pytest.mark.skipif("02_keyhole_digits" not in notebook_names(), reason="no 02_keyhole_digits yet")
def test_digits_are_read_and_sampled_well(metrics):
    """Labels are read better than by the marginal or from the mean; autoregressive sampling loses nothing."""
    numbers = metrics["02_keyhole_digits"]
    assert numbers["label_logloss"] < numbers["label_logloss_marginal"]
    assert numbers["label_logloss"] < numbers["label_logloss_deterministic"]
    assert numbers["label_calibration_error"] >= 0
    assert numbers["autoregressive_gain_high"] >= 0, "one-shot sampling is better in every resample"


@pytest.mark.skipif("03_motion_warping" not in notebook_names(), reason="no 03_motion_warping yet")
def test_one_field_follows_the_likelier_motion_and_two_do_not(metrics):
    """The bias of a mean out of reach, in both forward models; less of it under ancestral sampling; its remedy."""
    numbers = metrics["03_motion_warping"]
    for name in ("warp", "splat"):
        one, two = numbers[f"{name}_1_eta_0_excess"], numbers[f"{name}_2_eta_0_excess"]
        assert one > 4 and abs(two) < 4 and one - abs(two) > 3, name
        assert numbers[f"{name}_1_eta_1_excess"] < one, name
        assert numbers[f"{name}_2_eta_0_energy_skill"] > numbers[f"{name}_1_eta_0_energy_skill"], name
    assert numbers["splat_floor_best_fit"] < numbers["warp_floor_best_fit"] < numbers["warp_floor_true_field"]


@pytest.mark.skipif("03_motion_warping" not in notebook_names(), reason="no 03_motion_warping yet")
def test_recorded_motions_are_sampled_again_from_the_same_noise(metrics):
    numbers = metrics["03_motion_warping"]
    assert numbers["live_apart"] < 0.05, "pixels"
    assert numbers["live_same_signs"] >= 0.99


@pytest.mark.skipif("05_flatland" not in notebook_names(), reason="no 05_flatland yet")
def test_one_target_fills_one_room_and_two_fill_two(metrics):
    """What neither context nor target sees is a mean; sampled in turn, it is as good as what the first target sees."""
    numbers = metrics["05_flatland"]
    assert numbers["one_shot_factor_tv_second_low"] > 2 * numbers["factor_tv_second_high"]
    assert numbers["one_shot_factor_tv_first_high"] < numbers["one_shot_factor_tv_second_low"]
    assert numbers["energy_skill_low"] > numbers["one_shot_energy_skill"]
    assert numbers["novel_weight_gain_low"] > 0, "without the novel loss, other views are worse"
