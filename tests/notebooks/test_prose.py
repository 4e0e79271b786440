"""What is typed by hand: recorded numbers in the prose of 06, 07 and 09, and the README's table of sections."""

import re

import pytest

from fwdiff_lite.experiments import harness
from fwdiff_lite.experiments.inverse_graphics import ablations, angles, evaluation, held_out, variants
from fwdiff_lite.pipeline.notebook import notebook_names
from fwdiff_lite.problems.inverse_graphics import tabletop
from fwdiff_lite.storage.files import read_json, repo_root

# A sentence with fields: {KEY:FORMAT} is a number of metrics.json, in per cent where the format ends in %.
PAGE_06 = (
    "of the body's frequencies | {hidden_factor_tv:.3f} ({hidden_factor_tv_low:.3f} to {hidden_factor_tv_high:.3f}) |",
    "of the decal's | {decal_factor_tv:.3f} ({decal_factor_tv_low:.3f} to {decal_factor_tv_high:.3f}) |",
    "at the worst colour of screen or box | {factor_tv_worst_colour:.2f} |",
    "| upper end below {exact_factor_tv_high_95:.3f} | holds |",
    "| upper end below {exact_factor_tv_high_95:.3f} | fails |",
    "At 45° the score is {novel_energy_over_true_60:.2f} times that of true draws, and {novel_ceiling_rays_60:.2f} for",
    "At 90° it is {novel_energy_over_true_120:.2f}, and {novel_ceiling_rays_120:.2f} with these rays",
    "is as good after {view_space_gpu_minutes:.0f} GPU-minutes",
    "was measured for one sample only (section 11): its error is {context_error:.2f}",
    "from behind grows clearly, by {no_render_gain_180:.0%}",
    "the mode bias is {unet_lean:.3f} ({unet_lean_low:.3f} to {unet_lean_high:.3f})",
)
PAGE_07 = (
    "agree {view_space_consistency_gain_180:.0f} to {view_space_consistency_gain_60:.0f} dB better",
    "scores are {no_novel_energies_gain:.0%} larger, all of it in novel views",
    "Features and the U-Net matter by {no_features_energies_gain:.0%} each",
    "Features and the U-Net matter by {dit_energies_gain:.0%} each",
    "together are {no_render_energies_gain:.1%} larger without it ({no_render_energies_gain_interval})",
    "they are {no_render_energies_gain_over_reseeded:.1%} larger ({no_render_energies_gain_over_reseeded_interval})",
    "in single scores by up to {reseeded_novel_gain_120:.1%}",
    "the target's score is {no_render_gain_180:.0%} larger without it",
    "the sharpness is {view_space_sharpness_ratio_180:.2f}. The full model has {unet_sharpness_ratio_180:.2f}",
    "it is {distilled_energies_gain:.0%} larger ({distilled_energies_gain_whole_interval})",
    "agree {distilled_consistency_gain_180:.0f} to {distilled_consistency_gain_120:.0f} dB less than two of ours",
    "spread over error is {distilled_spread_skill_180:.2f}",
    "makes energy scores {around_energies_gain:.0%} larger at equal minutes",
    "agree {autoregressive_consistency_gain_180:.1f} dB better",
    "A guidance of 3 raises it by {guidance_3_energy_gain:.0%}",
    "the skill of the target from behind is {unet_128_energy_skill_180:.2f}, and {unet_128_energy_skill_60:.2f} at 60°",
    "the model of 06 had {longer_gpu_minutes:.0f}",
    "at 135° has a skill of {no_novel_novel_energy_skill_180:.2f}",
    "that of the full model has {unet_novel_energy_skill_180:.2f}",
)
PAGE_09 = (
    "From 40 to 80 samples a ray, the operations grow by a factor of {samples_gigaflop_growth:.1f}, the bytes by "
    "{samples_gigabytes_moved_growth:.1f} and the time by {samples_milliseconds_growth:.1f}",
    "From 32 to 64 pixels a side, the operations grow by {side_gigaflop_growth:.1f}, the bytes by "
    "{side_gigabytes_moved_growth:.1f} and the time by {side_milliseconds_growth:.1f}",
    "far from the peak of the card: at about {share_of_peak:.0%}",
)


@pytest.fixture(scope="module")
def numbers():
    """The numbers of these pages, and a few that follow from recorded runs."""
    metrics = read_json(repo_root() / "figures" / "metrics.json")
    results = harness.load_results(evaluation.EXPERIMENT)
    known = metrics["07_ablations"] | metrics["06_inverse_graphics"]
    known["view_space_gpu_minutes"] = results.trainings["supersampled_view_space"]["gpu_minutes"]
    costs = metrics["09_cost"]
    known["share_of_peak"] = costs["share_of_peak"]
    for setting, first in (("samples", 1), ("side", 0)):  # the index of the smaller one of the two values
        for key in ("gigaflop", "gigabytes_moved", "milliseconds"):
            values = costs[f"cost_{setting}_{key}"]
            known[f"{setting}_{key}_growth"] = values[first + 1] / values[first]
    for key in ("no_render_energies_gain", "no_render_energies_gain_over_reseeded", "distilled_energies_gain"):
        low, high = (100 * known[f"{key}_{end}"] for end in ("low", "high"))
        known[f"{key}_interval"], known[f"{key}_whole_interval"] = (
            f"{low:.1f} to {high:.1f}",
            f"{low:.0f} to {high:.0f}",
        )
    return known


def prose(name):
    """The text cells of a page, without marks and line breaks; a link is its text."""
    source = (repo_root() / "notebooks" / "py" / f"{name}.py").read_text(encoding="utf-8")
    cells = re.findall(r"^# %% \[markdown\]\n(.*?)(?=^# %%|\Z)", source, re.DOTALL | re.MULTILINE)
    text = " ".join(re.sub(r"^# ?", "", "\n".join(cells), flags=re.MULTILINE).split())
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text.replace("*", ""))


def filled(sentence, numbers):
    """A sentence with its numbers, in the way of the prose, with a space before "%"."""

    def text(field):
        key, _, spec = field[1].partition(":")
        return format(numbers[key], spec).replace("%", " %")

    return re.sub(r"\{([^}]*)\}", text, sentence)


@pytest.mark.parametrize(
    "name, sentence",
    [("06_inverse_graphics", s) for s in PAGE_06]
    + [("07_ablations", s) for s in PAGE_07]
    + [("09_cost", s) for s in PAGE_09],
)
def test_numbers_in_the_prose_are_recorded(name, sentence, numbers):
    assert filled(sentence, numbers) in prose(name)


def test_another_number_is_noticed(numbers):
    assert filled(PAGE_06[0], numbers | {"hidden_factor_tv": 0.02}) not in prose("06_inverse_graphics")


def test_scores_of_the_prose_that_speak_of_all_views(numbers):
    """Sentences that sum up a table: each bound of the prose holds in every row of the table."""
    scores = ablations.scene_scores(harness.load_results(ablations.EXPERIMENT))
    keys = [f"{prefix}energy_{angle}" for prefix in ("", "novel_") for angle in held_out.TARGET_ANGLES]
    gains = ablations.paired_gains(scores["unet"], scores["view_space"])
    values = [-100 * gains[key].value for key in keys]
    assert (round(min(values)), round(max(values))) == (5, 18) and "in all six energy scores, by 5 to 18 %" in prose(
        "07_ablations"
    )
    page, prefixes = prose("06_inverse_graphics"), ("", "novel_")

    def ends(measure, *prefixes):
        values = [numbers[f"{prefix}{measure}_{angle}"] for prefix in prefixes for angle in angles.ANGLES]
        return f"{min(values):.2f} to {max(values):.2f}"

    assert f"of true draws, targets | {ends('energy_over_true', '')} |" in page
    assert f"the same, novel views | {ends('energy_over_true', 'novel_')} |" in page
    assert f"spread over error, targets and novel views | {ends('spread_skill', *prefixes)} |" in page
    assert f"sharpness, targets and novel views | {ends('sharpness_ratio', *prefixes)} |" in page
    gains = [numbers[f"psnr_sample_{a}"] - numbers[f"psnr_true_draw_{a}"] for a in angles.ANGLES]
    assert f"that of a true draw, targets | {min(gains):.1f} to {max(gains):.1f} dB |" in page
    columns = [f"{factor}_factor_{key}" for key in ("tv", "scene_rms") for factor in tabletop.FACTORS]
    columns += [f"{prefix}energy_over_true_{angle}" for prefix in prefixes for angle in (60, 180)]
    results = harness.load_results(evaluation.EXPERIMENT)
    ancestral, ddim = (evaluation.numbers_of(results, f"{variants.MAIN_MODEL}_angles_eta_{eta}") for eta in (1, 0))
    for key in columns:
        assert ancestral[f"{key}_low"] <= ddim[f"{key}_high"] and ddim[f"{key}_low"] <= ancestral[f"{key}_high"], key


def test_the_readme_points_to_sections_that_exist():
    text = (repo_root() / "README.md").read_text(encoding="utf-8")
    table = re.search(r"^\| \| forward model \| denoiser.*?\n\n", text, re.DOTALL | re.MULTILINE)[0]
    rows = re.findall(r"^\| \[\d\d\]\(notebooks/(\w+)\.ipynb\) \|(.*)$", table, re.MULTILINE)
    assert [name for name, _ in rows] == [name for name in notebook_names() if name[:2] <= "08"]
    for name, cells in rows:
        page = prose(name)
        sections = re.findall(r"\b\d[a-d]?\b", cells.replace("as 06", ""))
        assert sections and all(re.search(rf"#{{2,3}} {section}\. ", page) for section in sections), name
