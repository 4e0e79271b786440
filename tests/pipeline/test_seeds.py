"""Numbers of live trainings: several seeds, the digits that the README prints, and a second machine."""

from string import Formatter

import nbformat
import pytest

from fwdiff_lite.pipeline.claims import claim_keys, claim_text, number_text, read_claims
from fwdiff_lite.pipeline.pairs import read_source
from fwdiff_lite.pipeline.readme import render
from fwdiff_lite.pipeline.seeds import finished, main, summary
from fwdiff_lite.storage.files import read_json, repo_root, write_json

FIGURES = repo_root() / "figures"
SEEDS, SECOND = read_json(FIGURES / "seeds.json"), read_json(FIGURES / "second_machine.json")
LIVE = [(name, key) for name, entry in SEEDS.items() for key in entry["numbers"]]
TRAINED = """PROFILE = "cpu"
SEED = 0
STEPS = 3"""


@pytest.fixture
def trained(checkout):
    """A checkout with a notebook whose mean depends on SEED, and one that trains nothing."""
    folder = checkout(**{"90_tiny": "1", "91_other": "2"})
    path = folder / "notebooks" / "py" / "90_tiny.py"
    text = path.read_text().replace('PROFILE = "cpu"\nSTEPS = 3', TRAINED)
    path.write_text(text.replace("manual_seed(0)", "manual_seed(SEED)"))
    return folder


@pytest.mark.slow
def test_several_seeds_are_run_kept_and_summarised(trained, tmp_path, capsys):
    output = tmp_path / "seeds"
    arguments = ["--profile", "smoke", "--output", str(output)]
    assert main([*arguments, "--count", "2"]) == 0
    entry = read_json(output / "seeds.json")["90_tiny"]
    assert [run["seed"] for run in entry["runs"]] == [0, 1] and entry["runs"][0]["minutes"] > 0
    mean = entry["numbers"]["mean"]
    assert len(set(mean["values"])) == 2 and mean["min"] < mean["mean"] < mean["max"] and mean["sd"] > 0
    assert "90_tiny SEED 1: running" in capsys.readouterr().out

    assert main([*arguments, "--count", "3"]) == 0
    assert capsys.readouterr().out.count(": running") == 1, "finished runs are kept"
    assert len(read_json(output / "seeds.json")["90_tiny"]["numbers"]["mean"]["values"]) == 3
    assert main([*arguments, "--only", "91"]) == 2
    assert "91_other has no parameter 'SEED'" in capsys.readouterr().err
    assert main(["--profile", "smoke"]) == 2
    assert "give --output DIR for smoke" in capsys.readouterr().err


def test_seed_0_is_the_committed_run_of_the_present_source(trained):
    figures, notebook = trained / "figures", trained / "notebooks" / "90_tiny.ipynb"
    facts = {"hardware": {"cpu": "a processor"}, "commit": "c", "date": "d", "minutes": 2.5}
    write_json(figures / "provenance.json", {"90_tiny": {"cpu": facts}})
    write_json(figures / "metrics.json", {"90_tiny": {"mean": 0.25}})
    write_json(figures / "claims.json", {"90_tiny": {"text": "{mean:.1f}"}})
    assert finished("90_tiny", 0, "cpu") is None, "it was never executed"
    nbformat.write(read_source("90_tiny"), notebook)
    record = finished("90_tiny", 0, "cpu")
    assert record["numbers"] == {"mean": 0.25}
    assert record["run"] == {"seed": 0, "cpu": "a processor", "commit": "c", "date": "d", "minutes": 2.5}
    assert finished("90_tiny", 1, "cpu") is None and finished("90_tiny", 0, "smoke") is None
    source = trained / "notebooks" / "py" / "90_tiny.py"
    source.write_text(source.read_text().replace("torch.randn(1000", "torch.randn(999"))
    assert finished("90_tiny", 0, "cpu") is None, "the source has changed since"


def test_numbers_that_no_seed_changes_are_left_out():
    claim = {"text": "{live:.2f} and {recorded:.2f}"}
    records = [{"claim": claim, "numbers": {"live": x, "recorded": 0.5, "other": x}} for x in (0.5, 0.6, 0.7)]
    result = summary(records)
    assert set(result) == {"live"}
    assert set(summary(records, ["other", "recorded", "unknown"])) == {"live", "other"}
    assert result["live"]["sd"] == pytest.approx(0.1) and result["live"]["mean"] == pytest.approx(0.6)


@pytest.mark.parametrize(
    "key, spec, seeds, text",
    [
        ("skill", ".0%", {}, "89% (83% to 94%)"),
        ("alone", ".2f", {}, "0.12"),
        ("skill_high", ".1f", {}, "0.9"),
        ("skill_low", ".1f", {}, "0.8"),
        ("ratio_least", ".0f", {}, "130"),
        ("skill", ".0%", {"skill": {"min": 0.91, "max": 0.96, "sd": 0.02}}, "91% to 96%"),
        ("skill", ".3f", {"skill": {"min": 0.911, "max": 0.962, "sd": 0.02}}, "0.91 to 0.96"),
        ("skill", ".3f", {"skill": {"min": 0.911, "max": 0.962, "sd": 0.2}}, "0.9 to 1.0"),
        ("skill", ".3f", {"skill": {"min": 0.9111, "max": 0.9112, "sd": 0.0009}}, "0.911"),
        ("alone", ".0f", {"alone": {"min": 27.6, "max": 28.4, "sd": 0.3}}, "28"),
        ("skill_high", ".2f", {"skill_high": {"min": 0.031, "max": 0.041, "sd": 0.004}}, "0.04"),
        ("skill_low", ".2f", {"skill_low": {"min": 0.787, "max": 0.801, "sd": 0.004}}, "0.79"),
    ],
)
def test_digits(key, spec, seeds, text):
    """No digit is finer than the seeds' standard deviation; an end of an interval is the worst one over the seeds."""
    numbers = {"skill": 0.887, "skill_low": 0.832, "skill_high": 0.944, "alone": 0.1234, "ratio_least": 129.6}
    assert number_text(key, spec, numbers, seeds) == text


def test_an_interval_that_the_text_states_is_not_added():
    numbers = {"a": 1.0, "a_low": 0.5, "a_high": 1.5, "noise_0.05": 2.0}
    assert claim_text({"text": "{a:.1f}"}, numbers) == "1.0 (0.5 to 1.5)"
    assert claim_text({"text": "{a:.1f}, at most {a_high:.1f}"}, numbers) == "1.0, at most 1.5"
    assert claim_text({"text": "{noise_0.05:.0f} {{braces}}"}, numbers) == "2 {braces}"
    assert list(claim_keys({"text": "{a:.1f} {{b}} {noise_0.05}"})) == ["a", "noise_0.05"]


def test_the_readme_prints_the_range_over_seeds(checkout):
    figures = checkout(**{"90_tiny": "1"}) / "figures"
    write_json(figures / "claims.json", {"90_tiny": {"text": "A mean of {mean:.3f}.", "thumbnail": ""}})
    write_json(figures / "metrics.json", {"90_tiny": {"mean": 0.25}})
    table = "<!-- generated: notebooks -->\n<!-- end -->\n"
    assert "A mean of 0.250." in render(table)
    over = {"mean": {"min": 0.21, "max": 0.29, "sd": 0.03}}
    write_json(figures / "seeds.json", {"90_tiny": {"numbers": over, "runs": [{"cpu": "a processor"}] * 5}})
    text = render(table)
    assert "A mean of 0.21 to 0.29." in text and "5 trainings with different seeds, on a processor" in text


# ----- what is committed


@pytest.mark.parametrize("name, key", LIVE)
def test_live_numbers_repeat_on_another_machine(name, key):
    """The committed run and a run on a second machine lie within four standard deviations of the seeds' mean."""
    over = SEEDS[name]["numbers"][key]
    values = [read_json(FIGURES / "metrics.json")[name].get(key), *SECOND["numbers"].get(name, {}).get(key, [])]
    assert len(over["values"]) >= 5
    for value in values:
        assert value is None or abs(value - over["mean"]) <= 4 * over["sd"]


@pytest.mark.skipif(not SEEDS, reason="no seeds yet: make seeds")
def test_other_headlines_have_the_same_digits_on_two_machines():
    """Two machines that ran one commit print the same text, but for the numbers that depend on the seed."""
    compared = []
    for name, claim in read_claims().items():
        live, pairs = SEEDS.get(name, {}).get("numbers", {}), SECOND["numbers"].get(name, {})
        for _, key, spec, _ in Formatter().parse(claim["text"]):
            if key in pairs and key not in live:
                first, second = (number_text(key, spec, {key: value}, {}) for value in pairs[key])
                assert first == second, f"{name}: {key}"
                compared.append(key)
    assert compared
