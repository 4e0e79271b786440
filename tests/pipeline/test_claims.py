"""The claim of a notebook: its row in the README, its bounds, and messages for a claim that is missing or wrong."""

import json

import pytest

from fwdiff_lite.pipeline.claims import is_within, missing_claim, read_claims
from fwdiff_lite.pipeline.notebook import Run
from fwdiff_lite.pipeline.readme import render
from fwdiff_lite.storage.files import read_json, write_json

TABLE = "<!-- generated: notebooks -->\n<!-- end -->\n"


@pytest.fixture
def run(checkout):
    checkout(**{"90_tiny": "1"})
    run = Run("90_tiny", "smoke")
    (run.folder / "90_tiny_line.png").touch()
    run.record(mean=0.25, count=3)
    return run


def test_a_claim_is_written_beside_the_numbers(run):
    run.claim("A mean of {mean:.1f}.", thumbnail="line.png")
    run.must_show(mean=(None, 0.2))
    run.must_show(count=(3, 3), **{f"me{'an'}": (0, 0.2)})
    run.falls_short(mean="too few steps")
    run.finish()
    assert read_json(run.folder / "90_tiny.claims.json") == {
        "text": "A mean of {mean:.1f}.",
        "thumbnail": "90_tiny_line.png",
        "bounds": {"mean": [0, 0.2], "count": [3, 3]},
        "shortfalls": {"mean": "too few steps"},
    }


@pytest.mark.parametrize(
    "bound, value, within",
    [
        (None, 7.0, True),
        ([0.0, 0.5], 0.5, True),
        ([0.0, 0.5], 0.51, False),
        ([0.0, 0.5], -0.01, False),
        ([None, 0.5], -9e9, True),
        ([None, 0.5], 0.51, False),
        ([0.8, None], 9e9, True),
        ([0.8, None], 0.79, False),
        ([0.8, None], float("nan"), False),
        ([128, 128], 128, True),
        ([128, 128], 127, False),
    ],
)
def test_bounds(bound, value, within):
    assert is_within(value, bound) == within


@pytest.mark.parametrize(
    "bound", [0.5, (0.5,), (0, 1, 2), "ab", ("0", 1), (0, float("inf")), (float("nan"), 1), (True, 1), {0, 1}]
)
def test_bad_bounds(run, bound):
    with pytest.raises(ValueError, match=r"^the bound of mean is .*: give \(at least, at most\), with None"):
        run.must_show(mean=bound)


def test_bad_claims(run):
    with pytest.raises(ValueError, match=r"the bound of mean is \(1, 0\): the smaller number comes first"):
        run.must_show(mean=(1, 0))
    run.claim("A skill of {skill:.2f}.", thumbnail="line.png")
    with pytest.raises(ValueError, match="the claim names 'skill', which is not recorded: call run.record first"):
        run.finish()
    run.claim("A mean of {mean}.", thumbnail="curve.png")
    with pytest.raises(ValueError, match="90_tiny made no picture 90_tiny_curve.png: as thumbnail, name one that it"):
        run.finish()
    run.claim("A mean of {mean}.", thumbnail="line.png")
    run.must_show(skill=(0.8, None))
    with pytest.raises(ValueError, match="90_tiny must show skill, not recorded: call run.record first"):
        run.finish()
    run.record(skill=0.7)
    run.falls_short(mean="a mean without a bound")
    with pytest.raises(ValueError, match="90_tiny falls short in mean, without a bound: call run.must_show too"):
        run.finish()
    assert not (run.folder / "90_tiny.metrics.json").exists()


def test_a_forgotten_claim_is_noticed(run, tmp_path):
    remedy = 'call run.claim("...", thumbnail="NAME.png") in its last cell, then run `make reproduce`'
    assert missing_claim("90_tiny", {}) == f"90_tiny makes no claim (text and thumbnail missing): {remedy}"
    run.finish()
    write_json(tmp_path / "figures" / "claims.json", {"90_tiny": read_json(run.folder / "90_tiny.claims.json")})
    assert missing_claim("90_tiny", read_claims()) == f"90_tiny makes no claim (text and thumbnail missing): {remedy}"
    assert "*no claim yet: call `run.claim` in its last cell*" in render(TABLE)
    run.claim("A mean of {mean}.", thumbnail="line.png")
    assert missing_claim("90_tiny", {"90_tiny": run.claims}) is None


def test_the_readme_fills_in_the_numbers(run, tmp_path):
    figures = tmp_path / "figures"
    assert "measured yet" in render(TABLE)
    run.claim("A mean of {mean:.1f}.", thumbnail="line.png")
    run.finish()
    write_json(figures / "claims.json", {"90_tiny": json.loads((run.folder / "90_tiny.claims.json").read_text())})
    write_json(figures / "metrics.json", {"90_tiny": {"mean": 0.25}})
    row = '| <img src="figures/90_tiny_line.png" width="220"> | [90_tiny](notebooks/90_tiny.ipynb) | A mean of 0.2. |'
    assert row in render(TABLE)
