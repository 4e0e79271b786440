"""The generated parts of README.md: its animation, the table of notebooks, the times. No number is typed."""

import re

from fwdiff_lite.pipeline.notebook import cost_text, notebook_names
from fwdiff_lite.storage.files import read_json, repo_root, write_json, write_text

MOVING_PICTURE = "00_one_page_*.gif"
THUMBNAILS = {  # notebook: which of its pictures stands in the table; its first one if it is not named here
    "00_one_page": "00_one_page_everything.png",
    "01_toy_proof": "01_toy_proof_baselines.png",
    "02_keyhole_digits": "02_keyhole_digits_samples.png",
    "03_motion_warping": "03_motion_warping_clips.gif",
    "04_gan_inversion": "04_gan_inversion_samples.png",
    "05_flatland": "05_flatland_samples.png",
    "06_inverse_graphics": "06_inverse_graphics_orbit.gif",
    "07_ablations": "07_ablations_ring.png",
}
CLAIMS = {  # notebook: its claim, with numbers from figures/metrics.json
    "00_one_page": "The whole method from scratch on one page, with nothing but torch and matplotlib.",
    "01_toy_proof": (
        "Proposition 1. A model trained on 1-D projections alone samples the 2-D signals behind them: a "
        "classifier tells its samples from exact posterior draws with an accuracy of {joint_c2st:.3f} (0.5 is "
        "chance; deterministic regression {deterministic_c2st:.2f}). Its limit: in R³ this accuracy is "
        "{one_shot_c2st:.2f} for one-shot sampling, and {autoregressive_c2st:.2f} for autoregressive sampling."
    ),
    "02_keyhole_digits": (
        "Real handwritten digits, never seen whole, sampled from one window: {energy_ratio:.2f} of the "
        "deterministic baseline's energy score on whole held-out digits, in agreement with the window to "
        "{window_consistency_psnr:.0f} dB, spread over error {spread_skill:.2f} (1 is calibrated)."
    ),
    "03_motion_warping": (
        "Section 4.2: several motions for one image, learnt from images and later frames. Pooled, sampled signs are "
        "within {factor_tv_high:.3f} of their true probabilities; 16 samples hit {mode_coverage:.0%} of the modes, and "
        "the best of them lies {epe_ratio:.2f} times as far from the truth as the deterministic prediction. With the "
        "paper's one flow field the likelier motion is drawn {warp_1_eta_0_excess:.0f} points too often; two blended "
        "flow fields remove this bias. Spread over error is {spread_skill:.2f} (1 is calibrated)."
    ),
    "04_gan_inversion": (
        "Section 4.3: a StyleGAN2 inverted from one patch, learnt from patches alone. Samples meet a held-out patch "
        "with {wplus_eta_1_energy_ratio:.2f} of the deterministic prediction's energy score, and differ "
        "{wplus_eta_1_diversity_outside_over_inside:.0f} times as much outside the patch as inside. How often they "
        "draw a hidden attribute is within {wplus_eta_1_factor_tv:.2f} of the true probabilities for the worst one "
        "(the deterministic prediction: {wplus_eta_1_deterministic_factor_tv:.2f}). Spread over error is "
        "{wplus_eta_1_spread_skill:.2f} (1 is calibrated)."
    ),
    "05_flatland": (
        "Section 4.1 in the plane: radiance fields sampled from one row of pixels, by a pixelNeRF inside a diffusion "
        "model that trains in a minute and a half. Its samples come {energy_skill:.0%} of the way from a "
        "deterministic model's energy score to the truth's. What hides behind a wall is sampled within "
        "{factor_tv:.2f} of its true probabilities once every hidden room has been a target; with one target, the "
        "other room is off by {one_shot_factor_tv_second:.2f}."
    ),
    "06_inverse_graphics": (
        "Section 4.1 in 3-D: radiance fields sampled from one picture. On {examined} held-out scenes it draws what the "
        "picture hides within {factor_tv:.2f} of the true probabilities, and samples vary "
        "{variance_unseen_over_seen_180:.0f} times as much where the picture cannot know as where it can. Behind the "
        "table they come {energy_skill_180:.0%} of the way from a deterministic model's energy score to the truth's, "
        "at 60 degrees {energy_skill_60:.0%}."
    ),
    "07_ablations": (
        "Section 4.1 taken apart, each model trained for three GPU-minutes. Two views of one sampled scene agree "
        "{view_space_consistency_gain_180:.0f} to {view_space_consistency_gain_60:.0f} dB better than two of "
        "view-space diffusion, which has no scene, and whose single pictures score better "
        "({view_space_energies_gain:.0%} of energy score). Without the loss on novel views scores are "
        "{no_novel_energies_gain:.0%} larger, without the render's features {no_features_energies_gain:.0%}, without "
        "its depth {no_depth_energies_gain:.0%}. Trained further at 128 x 128, samples from behind come "
        "{unet_128_energy_skill_180:.0%} of the way from a deterministic model's energy score to the truth's."
    ),
}
UNMEASURED = "*not measured yet: run `make reproduce`*"


def update_readme() -> None:
    """Renews README.md from figures/, with the minutes of the last `make test`."""
    figures = repo_root() / "figures"
    if tested := read_json(repo_root() / "build" / "test.json"):
        write_json(figures / "provenance.json", read_json(figures / "provenance.json") | tested)
    path = repo_root() / "README.md"
    if path.exists():
        write_text(path, render(path.read_text(encoding="utf-8")))


def render(text: str) -> str:
    """The README text, with new content between each <!-- generated: NAME --> and <!-- end -->."""
    parts = {"picture": picture, "notebooks": notebooks, "times": times}

    def part(match: re.Match) -> str:
        return f"{match[1]}\n{parts[match[2]]()}\n{match[4]}"

    return re.sub(r"(<!-- generated: (\w+) -->)\n(.*?)(<!-- end -->)", part, text, flags=re.DOTALL)


def picture() -> str:
    """The animation."""
    matches = sorted((repo_root() / "figures").glob(MOVING_PICTURE))
    return f'<img src="figures/{matches[0].name}" alt="samples as they form" width="640">' if matches else UNMEASURED


def notebooks() -> str:
    """One row a notebook: thumbnail, claim, minutes and memory."""
    rows = ["| | notebook | claim | cost |", "|---|---|---|---|"]
    for name in notebook_names():
        thumbnail = f'<img src="figures/{picture}" width="220">' if (picture := thumbnail_of(name)) else ""
        link = f"[{name}](notebooks/{name}.ipynb)"
        rows.append(f"| {thumbnail} | {link} | {claim(name)} | {cost_text(name, 'cpu') or UNMEASURED} |")
    return "\n".join(rows)


def thumbnail_of(name: str) -> str | None:
    """The file name of a notebook's thumbnail."""
    pictures = sorted(path.name for path in (repo_root() / "figures").glob(f"{name}_*.*"))
    return THUMBNAILS.get(name) or next(iter(pictures), None)


def claim(name: str) -> str:
    """The claim of a notebook, with the numbers that it measured itself."""
    try:
        return CLAIMS.get(name, "").format(**read_json(repo_root() / "figures" / "metrics.json").get(name, {}))
    except KeyError:
        return UNMEASURED


def times() -> str:
    """The minutes of the two make commands in their last measured runs."""
    provenance = read_json(repo_root() / "figures" / "provenance.json")
    lines = []
    for command in ("make reproduce", "make test"):
        if total := provenance.get(command):
            minutes, install = total["minutes"] + total["install_minutes"], total["install_minutes"]
            lines.append(
                f"- `{command}` took {minutes:.1f} minutes on {total['cores']} CPU cores, "
                f"{install:.1f} of them to install the environment."
            )
        else:
            lines.append(f"- `{command}`: not measured yet.")
    return "\n".join(lines)
