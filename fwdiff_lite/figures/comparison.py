"""The paper and this repository side by side, and what the notebooks say about choices: two tables in Markdown.

One source for README and notebooks. A field in braces, {NN:KEY:FORMAT}, is a number that notebook NN recorded; it is
printed by the rule of `fwdiff_lite.figures.numbers.number_text`, with its interval or its range over seeds. [NN] is a
link to a notebook. What the paper reports stands with its section, figure or table. The table of its results is quoted
from arXiv 2508.21542, because the part of the paper that we could read ends before it.
"""

import re
from collections.abc import Sequence
from string import Formatter
from typing import NamedTuple

from IPython.display import Markdown

from fwdiff_lite.figures.numbers import number_text
from fwdiff_lite.storage.files import read_json, repo_root

QUOTE = "[arXiv 2508.21542](https://arxiv.org/abs/2508.21542)"  # it quotes the paper's table of results
UNMEASURED = "*not measured yet*"
NOT_STATED = "not known to us"


class Setting(NamedTuple):
    """A line of the first table: what the two works used."""

    subject: str
    paper: str
    here: str


class Finding(NamedTuple):
    """A line of the second table: a claim, what both works found, and why the two may differ.

    verdict: agrees, differs, in part, or not comparable
    """

    claim: str
    paper: str
    here: str
    verdict: str
    reason: str


class Choice(NamedTuple):
    """A line of the closing table: a question, the choice to start with, and its evidence."""

    question: str
    choice: str
    evidence: str


SETTINGS = (
    Setting(
        "data",
        "RealEstate10k (rooms) and CO3D (objects): photographs with known cameras (figure 3)",
        "scenes that we trace ourselves, so that the truth is known: a tabletop [06], rooms in the plane [05], moving "
        "shapes [03], portraits [04]; scikit-learn's handwritten digits [02]",
    ),
    Setting(
        "training scenes of the 3-D model",
        NOT_STATED,
        "{06:training_scenes_in_millions:.1f} million [06], {07:training_scenes_in_millions:.2f} million for the full "
        "model of [07]: batch size times steps, since each batch is drawn anew, with three pictures of each scene. "
        "Section 8 of [07] has {07:clips_read:.0f} clips",
    ),
    Setting(
        "training data of the other notebooks",
        NOT_STATED,
        "1,500 digits [02]; shapes and rooms that are drawn anew for each batch [03], [05]; 131,072 portraits [04]",
    ),
    Setting("test scenes of the 3-D model", NOT_STATED, "{06:examined:.0f} [06], {07:examined:.0f} [07]"),
    Setting("resolution", NOT_STATED, "64 x 64 pixels [06], and 128 x 128 [07]"),
    Setting(
        "parameters of the 3-D model",
        "755 million (the released recipe)",
        "{07:parameters_in_millions:.1f} million",
    ),
    Setting(
        "training of the 3-D model",
        f"8 GPUs (the released recipe); hours: {NOT_STATED}",
        "three GPUs for 18 minutes [06], one for {07:unet_gpu_minutes:.0f} minutes for each model of [07]",
    ),
    Setting(
        "sampling with the 3-D model",
        f"2 minutes to sample a sequence and 8 to render it (quoted by {QUOTE})",
        "{09:sampling_ms_in_a_batch:.0f} ms to sample a scene, many at once [09]",
    ),
    Setting(
        "baselines",
        "pixelNeRF, and SparseFusion, which generates views (figure 4)",
        "a deterministic pixelNeRF with our networks, diffusion of views with our encoder, an unconditional model [07]",
    ),
    Setting(
        "measures",
        "FID, KID, LPIPS, PSNR",
        "energy score and skill, spread over error, probabilities of what is hidden, agreement with the context "
        "(explained in [02])",
    ),
)

FINDINGS = (
    Finding(
        "Samples follow the true conditional distribution.",
        "Proposition 1: they do, if all observations determine the signal (section 2.2).",
        "A classifier tells samples from exact draws with an accuracy of {01:joint_c2st:.3f}; 0.5 is chance [01].",
        "agrees",
        "[01] also shows cases in which a premise fails.",
    ),
    Finding(
        "Samples are better than a deterministic prediction, except in PSNR.",
        "FID 42.84, pixelNeRF 195.4 on RealEstate10k; PSNR 17.47 dB, pixelNeRF 17.93 dB on CO3D's hydrants (table, "
        f"quoted by {QUOTE}).",
        "Skill {06:energy_skill_180:.2f}: 0 is the deterministic model, 1 is the truth. PSNR of one sample "
        "{06:psnr_sample_180:.1f} dB, deterministic {06:psnr_deterministic_180:.1f} dB [06].",
        "agrees",
        "PSNR rewards the mean of all possible scenes.",
    ),
    Finding(
        "A model with a scene makes better pictures than a model of views.",
        f"FID 42.84, SparseFusion 99.44 on RealEstate10k (table, quoted by {QUOTE}).",
        "The opposite, in all six energy scores (targets at 60, 120 and 180 degrees, novel views at 45, 90 and 135). "
        "Diffusion of views changes their sum by {07:view_space_energies_gain:.0%}; lower is better [07].",
        "differs",
        "Measure: an energy score rates each view alone; FID rates sets of pictures. Model: our baseline has our "
        "encoder. Its loss takes all pixels, ours a few rays. Data: our scenes are simple. SparseFusion distils its "
        "views into one scene. With this second stage the baseline's sum of energy scores equals ours within noise "
        "({07:distilled_energies_gain:.0%} larger).",
    ),
    Finding(
        "Views of one sample show one scene; generated views do not.",
        "Guaranteed by the scene; generated views are not consistent (sections 1 and 4.1).",
        "Two views of a scene agree {07:view_space_consistency_gain_180:.0f} dB better, seen from behind [07].",
        "agrees",
        "",
    ),
    Finding(
        "The target's encoder needs the deterministic render.",
        "Without the render, pixelNeRF is \u201cinsufficient\u201d (section 4.1, after Eq. 14).",
        "Without the render, energy scores are {07:no_render_energies_gain:.1%} larger; relative to another seed of "
        "the full model {07:no_render_energies_gain_over_reseeded:.1%}, within noise [07].",
        "in part",
        "Model: our encoder also sees each pixel's ray; the released one sees pictures, depth and features. Data: few "
        "details of our context matter behind. Size: three GPU-minutes. From behind the render does matter: without it "
        "energy scores are {07:no_render_gain_180:.0%} larger.",
    ),
    Finding(
        "The render should carry features, not only colours.",
        "Proposed, as uncertain targets give blurred colours (section 4.1).",
        "Without features, energy scores are {07:no_features_energies_gain:.1%} larger [07].",
        "agrees",
        "",
    ),
    Finding(
        "The loss on novel views is needed.",
        "Eq. 8 and 9 together approximate a loss on all observations (section 2.2).",
        "Without Eq. 9, energy scores are {07:no_novel_energies_gain:.0%} larger, all of it in novel views [07].",
        "agrees",
        "",
    ),
    Finding(
        "Autoregressive sampling completes what one target does not see.",
        "Used for 360-degree trajectories on CO3D (figure 3).",
        "Essential in [01] (classifier accuracy {01:one_shot_c2st:.2f} one-shot, {01:autoregressive_c2st:.2f} "
        "autoregressively) and in [05] (error of the third room's probabilities {05:one_shot_factor_tv_second:.2f}, "
        "then at most {05:factor_tv_second_high:.2f}). No gain in [07]: the energy score of one-shot sampling differs "
        "by {07:autoregressive_gain_180:.1%}.",
        "in part",
        "We did not separate the reasons. The model of [07] had three minutes to learn both one and two contexts. Blur "
        "of the first sampled view enters the context of the second.",
    ),
    Finding(
        "Unconditional models cannot model complex distributions.",
        "They are limited to single objects in standard poses (section 1).",
        "As a set, unconditional samples lie {07:unconditional_set_distance_180:.1f} times as far from true pictures "
        "as true pictures from each other [07].",
        "not comparable",
        "Our scenes are simple, and this model may need longer training.",
    ),
    Finding(
        "Motions of one image: samples are diverse, a deterministic model fails.",
        "Shown in pictures (section 4.2).",
        "The deterministic flow has {03:deterministic_over_zero:.2f} of the error of no flow. Samples have a skill of "
        "{03:energy_skill:.2f}, at least {03:energy_skill_low:.2f} [03].",
        "agrees",
        "New: with one flow field the likelier motion is drawn {03:warp_1_eta_0_excess:.0f} percentage points too "
        "often.",
    ),
    Finding(
        "GAN inversion: samples agree with the patch and differ elsewhere.",
        "Shown in pictures (section 4.3).",
        "The standard deviation of samples is {04:wplus_eta_1_diversity_outside_over_inside:.1f} times as large "
        "outside the patch as inside. "
        "Energy score over that of the deterministic model: {04:wplus_eta_1_energy_ratio:.2f} [04].",
        "agrees",
        "New: hidden attributes are drawn with wrong probabilities, the beard's by "
        "{04:wplus_eta_1_factor_tv_beard:.2f}.",
    ),
    Finding(
        "Sampling uses guidance 2, temperature 0.85 and thresholding.",
        "So does the released code on RealEstate10k.",
        "None of the three lowers the energy score. A guidance of 2 raises it by {07:guidance_2_energy_gain:.1%} [07].",
        "not comparable",
        "These options serve the look of pictures. We measure distributions.",
    ),
)

CHOICES = (
    Choice(
        "Which eta?",
        "Start with 0 (DDIM). Where the mean of observations is out of reach, 1 (ancestral) halves the bias.",
        "Unreachable mean, truth 0.70: DDIM {01:reachable_bias_ddim:.2f}, ancestral {01:reachable_bias_ancestral:.2f} "
        "[01]. One flow field, excess of the likelier motion in percentage points: DDIM {03:warp_1_eta_0_excess:.0f}, "
        "ancestral {03:warp_1_eta_1_excess:.0f} [03]. Novel views at 135 degrees, energy score over that of true "
        "draws: DDIM {06:eta_0_novel_energy_over_true_180:.2f}, ancestral {06:eta_1_novel_energy_over_true_180:.2f}, "
        "intervals overlap [06]. [04] and [06] use 1; their data do not separate the two.",
    ),
    Choice(
        "How many steps?",
        "64 with DDIM; with ancestral sampling 128. Fewer, if a measure of yours does not change.",
        "The exact denoiser's samples are as close as exact draws with 32 steps of DDIM and 128 ancestral steps "
        "(section 3b of [01]). [02] uses 16 steps, [05] 24, [03], [04] and [06] 32; none of these measured that fewer "
        "than 64 are enough.",
    ),
    Choice(
        "One-shot or autoregressive sampling?",
        "Autoregressive where one target does not see all that is hidden. One-shot where it does.",
        "Classifier accuracy (0.5 is best): {01:one_shot_c2st:.2f} and {01:autoregressive_c2st:.2f} [01]. Spread over "
        "error (1 is best): {02:spread_skill_one_shot:.2f} and {02:spread_skill:.2f} [02]. Error of the third room's "
        "probabilities: {05:one_shot_factor_tv_second:.2f} and at most {05:factor_tv_second_high:.2f} [05]. In 3-D no "
        "gain: {07:autoregressive_gain_180:.1%} [07].",
    ),
    Choice(
        "Which weight of the novel loss?",
        "1. Smaller where no signal has the mean of target and novel observation as its observations: samples are "
        "biased there, and a smaller weight biases them less. Section 10 of [08] explains this loss.",
        "Without it, the energy score of views along the walls grows by {05:novel_weight_gain:.0%} [05], and all "
        "energy scores by {07:no_novel_energies_gain:.0%} [07]. Unreachable mean, truth 0.70: weight 1 gives "
        "{01:reachable_bias_ddim:.2f}, weight 0.1 {01:reachable_bias_weight_01_ddim:.2f} [01].",
    ),
    Choice(
        "W or W+?",
        "W+: a latent for each layer can meet more patches.",
        "Energy score over the deterministic model's: W {04:w_eta_1_energy_ratio:.2f}, W+ "
        "{04:wplus_eta_1_energy_ratio:.2f}. Error of the hair's probabilities: W {04:w_eta_1_factor_tv_hair:.2f}, W+ "
        "{04:wplus_eta_1_factor_tv_hair:.2f} [04].",
    ),
    Choice(
        "Backward warping or splatting?",
        "Splatting, with two blended flow fields.",
        "Skill with two fields: splatting {03:splat_2_eta_0_energy_skill:.2f}, warping "
        "{03:warp_2_eta_0_energy_skill:.2f}; with one: {03:splat_1_eta_0_energy_skill:.2f} and "
        "{03:warp_1_eta_0_energy_skill:.2f}. Excess of the likelier motion with two fields: "
        "{03:splat_2_eta_0_excess:.0f} and {03:warp_2_eta_0_excess:.0f} percentage points [03].",
    ),
    Choice(
        "Condition the target's encoder on a deterministic render?",
        "Yes: the render is cheap, and helps where little is seen.",
        "Without it, energy scores from behind are {07:no_render_gain_180:.0%} larger; of all six "
        "{07:no_render_energies_gain:.1%} [07].",
    ),
)


def paper_markdown(folder: str = "") -> str:
    """Two tables: the settings of both works, and their findings. folder: the prefix of links to notebooks."""
    settings = table(("", "the paper", "here"), [tuple(line) for line in SETTINGS], folder)
    rows = [(f.claim, f.paper, f.here, f"**{f.verdict}**", f.reason) for f in FINDINGS]
    findings = table(
        ("claim", "the paper reports", "found here", "verdict", "why the two may differ, or what is new"), rows, folder
    )
    return f"{settings}\n\n{findings}"


def choices_markdown(folder: str = "") -> str:
    """The closing table: which choice to start with, and the numbers behind it."""
    return table(("question", "answer", "numbers"), [tuple(line) for line in CHOICES], folder)


def paper_table() -> Markdown:
    """The output of `paper_markdown` for a notebook."""
    return Markdown(paper_markdown())


def choices_table() -> Markdown:
    """The output of `choices_markdown` for a notebook."""
    return Markdown(choices_markdown())


def table(titles: Sequence[str], rows: Sequence[Sequence[str]], folder: str) -> str:
    """A table in Markdown, with its numbers and links filled in."""
    lines = [titles, ["---"] * len(titles), *([fill(cell, folder) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def fill(text: str, folder: str = "") -> str:
    """A text with its fields and links filled in; see the module's docstring."""
    figures, sources = repo_root() / "figures", (repo_root() / "notebooks" / "py").glob("[0-9][0-9]_*.py")
    names = {path.stem[:2]: path.stem for path in sources}
    metrics, seeds = read_json(figures / "metrics.json"), read_json(figures / "seeds.json")
    parts = []
    for literal, notebook, field, _ in Formatter().parse(text):
        parts.append(
            re.sub(r"\[(\d\d)\]", lambda link: f"[{link[1]}]({folder}{names.get(link[1], '')}.ipynb)", literal)
        )
        if notebook is not None:
            key, _, spec = field.partition(":")
            name = names.get(notebook, "")
            numbers, over_seeds = metrics.get(name, {}), seeds.get(name, {}).get("numbers", {})
            parts.append(number_text(key, spec, numbers, over_seeds) if key in numbers else UNMEASURED)
    return "".join(parts)


def fields() -> list[tuple[str, str]]:
    """The number of the notebook and the key of every number in the tables."""
    texts = [cell for line in (*SETTINGS, *FINDINGS, *CHOICES) for cell in line]
    return [(name, field.partition(":")[0]) for text in texts for _, name, field, _ in Formatter().parse(text) if name]
