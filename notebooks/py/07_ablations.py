# %% [markdown]
# # What each part buys
#
# A model has many parts, and each was somebody's idea. Remove one part, train the rest for as long, and evaluate it on
# the same test set: what was the part good for?
#
# **What you will see.** The model of `06_inverse_graphics` against two baselines: diffusion in view space, without a
# scene, and an unconditional model, without a context picture. Then ablations: the model without its parts, one at a
# time, and with larger images. The effect of guidance, temperature and thresholding on the frequencies of hidden
# things. Last, the same code on clips in RealEstate10K's format.
#
# **What you need.** `06_inverse_graphics`. All models were trained on a GPU, for equally few minutes, and evaluated on
# the same held-out scenes; their scores are loaded. Nothing is downloaded.
#
# **What it rebuilds.** The comparison of section 4.1 and figure 4 of *Diffusion with Forward Models* (Tewari et al.,
# NeurIPS 2023, [arXiv 2306.11719](https://arxiv.org/abs/2306.11719)), on scenes that we make ourselves.

# %%
# On Google Colab: fetches the repository and the light packages it lacks. Elsewhere: idle.
try:
    import google.colab  # noqa: F401
except ImportError:
    pass
else:
    import importlib.metadata, os, subprocess, sys

    folder = "/content/fwdiff-lite"
    if not os.path.isdir(folder):
        address = "https://github.com/fwdiff-lite/fwdiff-lite"
        subprocess.run(["git", "clone", "--quiet", "--depth", "1", address, folder], check=True)
    installed = {d.metadata["Name"].lower().replace("_", "-") for d in importlib.metadata.distributions()}
    light = "accelerate imageio jaxtyping matplotlib pillow safetensors scikit-image scikit-learn scipy tqdm wadler-lindig".split()
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*install, *(name for name in light if name not in installed), "-e", folder], check=True)
    sys.path.insert(0, folder)
    os.chdir(f"{folder}/notebooks")

# %% tags=["parameters"]
PROFILE = "cpu"
# The profile "gpu" trains one of the ablations anew, and resumes an earlier run.
MINUTES = 3.0  # of training
BATCH = 32  # scenes a step
FOLDER = "../build/07_ablations"  # for its weights

# %% tags=["nbval-ignore-output"]
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from fwdiff_lite import fit, plotting
from fwdiff_lite.pipeline.notebook import Run
from fwdiff_lite.experiments import harness
from fwdiff_lite.experiments.measurements import to_flat
from fwdiff_lite.experiments.inverse_graphics import ablations
from fwdiff_lite.experiments.inverse_graphics import evaluation
from fwdiff_lite.experiments.inverse_graphics import variants
from fwdiff_lite.problems.inverse_graphics import tabletop
from fwdiff_lite.experiments.inverse_graphics.ablations import SAMPLED_VARIANTS, FULL_MODEL, SAMPLER_OPTIONS
from fwdiff_lite.problems.inverse_graphics.consistency import inconsistency, psnr_interval

run = Run("07_ablations", PROFILE)
STEPS = run.pick(smoke=1, cpu=4, gpu=20)  # of the training in this notebook
results = harness.load_results(ablations.EXPERIMENT)
all_numbers, scores, images = to_flat(results.rows), ablations.scene_scores(results), results.arrays
records, trainings = results.evaluations, results.trainings
LABELS = {
    "redrawn": "true draws", "mixed": "true draws, shuffled views", "prior": "prior draws", "unet": "the full model",
    "reseeded": "another seed", "view_space": "view space", "distilled": "view space, distilled",
    "deterministic": "deterministic", "unconditional": "unconditional", "no_render": "no render",
    "no_features": "render, no features", "no_depth": "render, no depth", "no_novel": "no novel loss",
    "dit": "a transformer", "around": "two contexts, given one", "around_two": "two contexts, given two",
    "one_shot": "two contexts, one-shot", "autoregressive": "two contexts, autoregressive",
    "plain": "context dropout, eta 0",
}
run.header()


def number(name, key):
    """A metric of an ablation, nan if it has none."""
    return all_numbers[name].get(key, np.nan)


def example_views(name):
    """Two views, from behind and from 135 degrees, of one sample of each example scene (scenes, 2, H, W, 3)."""
    return torch.from_numpy(images[f"{name}_images"])[:, 0].movedim(-3, -1) / 255


def percent(interval, digits=1):
    """A ratio with the ends of its interval, in per cent."""
    return "{:.{d}f} % ({:.{d}f} to {:.{d}f})".format(*(100 * x for x in interval), d=digits)


def with_interval(numbers, key):
    """A metric with the ends of its interval."""
    return "{:.2f} ({:.2f} to {:.2f})".format(*(numbers[f"{key}{end}"] for end in ("", "_low", "_high")))


# %% [markdown]
# ## 1. Without a scene
#
# *View-space diffusion* generates the target's picture directly, as the first stage of SparseFusion does. It has our
# encoder, our deterministic render of the context, and the same minutes of training. Without rays through a scene its
# steps are cheaper, and its loss takes all 4,096 pixels where ours takes 320 of each picture. But two of its views are
# generated independently. One can *distil* its views into one scene afterwards, in the manner of SparseFusion's second
# stage: an optimisation for every sample. Ours is a simple one and was not tuned. A grid is fitted to pictures from all
# around; then its own renders are noised, denoised in one step, and fitted in turn.
#
# Below, three fronts, and one sample of each from behind (180°) and from the side (135°). Look at the second row: the
# two views of view space show one decal in yellow and in red.

# %%
test_set = evaluation.make_test_set(len(images[f"{FULL_MODEL}_images"]), 2)
front = test_set.context.value.movedim(-3, -1) / 2 + 0.5  # (scenes, 1, H, W, 3)
names = ["redrawn", "unet", "view_space"]
fig = plotting.image_grid(
    torch.cat([front, *map(example_views, names)], 1), size=1.05,
    col_titles=["front", *(f"{LABELS[name].split(', ')[-1]}\n{d}°" for name in names for d in (180, 135))],
)
run.savefig(fig, "views")
plt.show()

# %% [markdown]
# Each picture by itself is a good one. Below, views from all around for the first front, and the result of distilling
# the pictures of view space: one scene, though not always a possible one. Each face of a box may keep the colour of its
# own picture, and no true decal has two colours. The full model's scene is one scene as well, and it is foggy where
# neither context nor target looks.

# %%
for name, label in (("distilled", "sampling the pictures and distilling them"), (FULL_MODEL, "sampling a scene")):
    num_samples = len(scores[name]["energy_180"]) * SAMPLED_VARIANTS[name].num_samples
    num_samples *= len(SAMPLED_VARIANTS[name].target_angles) if name == FULL_MODEL else 1  # one scene for each target
    seconds = 60 * records[name]["gpu_minutes"] / num_samples
    print(f"{label}: {seconds:.2f} seconds of {records[name]['hardware']}, many at once, evaluation included")
orbit_seconds = all_numbers["orbit"]["seconds"]
print(f"the scene below, its pictures included: {orbit_seconds:.0f} seconds on a {records['orbit']['hardware']}")
orbits = {"painted": "view space", "distilled": "distilled", FULL_MODEL: LABELS[FULL_MODEL]}
views = torch.cat([torch.from_numpy(images[f"orbit_{name}"]).movedim(-3, -1) / 255 for name in orbits])
fig = plotting.image_grid(
    views, size=0.9, row_labels=[*orbits.values()], col_titles=[f"{d}°" for d in ablations.ORBIT_ANGLES]
)
run.savefig(fig, "ring")
plt.show()

# %% [markdown]
# Do two views show one scene? The position of a hidden body is uncertain; the positions of the far sides of box and
# screen are certain. So the *consistency* of two views is the PSNR between their colours of the same points, on surfaces
# that the context does not see but whose position it determines. True draws are the reference. Their consistency is
# finite, since a pixel of one picture corresponds to a position between the pixels of the other. The lower bound are
# pairs of views from two different true draws with the same front: each view by itself is perfect. A blurred scene is
# consistent, too, and can exceed the reference, so this metric alone does not suffice.
#
# Here and below intervals are 95 %, from resampling the scenes.

# %% tags=["nbval-ignore-output"]
names = ["redrawn", "deterministic", "unet", "distilled", "view_space", "mixed"]
fig, ax = plt.subplots(figsize=(7, 2.8), layout="constrained")
colors = (plotting.TARGET, plotting.SAMPLES, plotting.CONTEXT)
for j, (d, color) in enumerate(zip(evaluation.TARGET_ANGLES, colors, strict=True)):
    keys = (f"consistency_{d}{end}" for end in ("", "_low", "_high"))
    value, low, high = (np.array([number(name, key) for name in names]) for key in keys)
    label = f"{d}° with {round(evaluation.NOVEL_ANGLE_RATIO * d)}°"
    error_bars, x = (value - low, high - value), np.arange(len(names)) + 0.2 * (j - 1)
    ax.errorbar(x, value, error_bars, fmt="o", capsize=3, color=color, label=label)
ax.set(ylabel="consistency, dB", ylim=(0, None))
ax.set_xticks(range(len(names)), [LABELS[name].replace(", ", ",\n") for name in names])
ax.legend(loc="lower left", ncols=3)
run.savefig(fig, "consistency")
plt.show()
print("gain of the full model over another: its consistency, and how much larger the other's energy scores are:")
full_model = scores[FULL_MODEL]
for name in ("view_space", "distilled"):
    gains = ablations.paired_gains(full_model, scores[name])
    for d in evaluation.TARGET_ANGLES:
        gain = gains[f"consistency_{d}"]
        cells = "".join(f"{percent(gains[f'{prefix}energy_{d}'], 0):>20}" for prefix in ("", "novel_"))
        decibels = f"{gain.value:6.1f} dB ({gain.low:.1f} to {gain.high:.1f})"
        print(f"{LABELS[name]:22}{d:4}° {decibels}; target, novel{cells}")
        run.record(**gain.as_metrics(f"{name}_consistency_gain_{d}"))
    print(f"{LABELS[name]:22} all six scores together {percent(gains['energies'], 0)}")
    run.record(**gains["energies"].as_metrics(f"{name}_energies_gain"))

longer_training = to_flat(harness.load_results(evaluation.EXPERIMENT).rows)[evaluation.MAIN_SAMPLER]
print("\nskill (0: the deterministic model, 1: true draws) of targets, and of novel views, at 60, 120, 180 degrees")
models = {LABELS[name]: all_numbers[name] for name in (FULL_MODEL, "view_space")}
for label, numbers in (models | {"06's, 32 minutes": longer_training}).items():
    keys = (f"{prefix}energy_skill_{d}" for prefix in ("", "novel_") for d in evaluation.TARGET_ANGLES)
    print(f"{label:22}" + "".join(f"{numbers[key]:6.2f}" for key in keys))

# %% [markdown]
# The reference and the lower bound again, computed here on a few of the scenes.

# %% tags=["nbval-ignore-output"]
points, generator = ablations.consistency_points(test_set)[-1], torch.Generator().manual_seed(0)
draws = {"redrawn": test_set.posterior_draws, "mixed": ablations.shuffle_views(test_set.posterior_draws)}
for name, views in draws.items():
    error = inconsistency(views[:, :, -1, 0], views[:, :, -1, 1], points)
    consistency, recorded = psnr_interval(error, generator).value, number(name, "consistency_180")
    print(f"{LABELS[name]:27}{consistency:6.1f} dB on these {len(test_set.truth)}, {recorded:.1f} dB on all scenes")
    run.record(**{f"live_{name}_consistency": consistency})

# %% [markdown]
# ## 2. Without a picture
#
# RenderDiffusion has a scene inside, but no context: the noisy target alone determines the scene. Below, its samples,
# each from other noise, beside draws of true scenes from the prior. They follow no picture, so they can only be
# evaluated as a set. `distance`: the distance of samples from prior draws over the distance of two sets of prior draws
# (sliced Wasserstein): 1 is perfect.

# %%
names = ["prior", "unconditional"]
fig = plotting.image_grid(
    torch.cat(list(map(example_views, names)), 1), size=1.2,
    col_titles=[f"{LABELS[name]},\n{view}" for name in names for view in ("one view", "after 45°")],
)
run.savefig(fig, "blind")
plt.show()
print(f"{'':18}" + "".join(f"{title:>16}" for title in ("distance", "novel distance", "image tv")))
keys = ("set_distance_180", "novel_set_distance_180", "sharpness_ratio_180")
for name in names:
    print(f"{LABELS[name]:18}" + "".join(f"{number(name, key):16.2f}" for key in keys))
    run.record(**{f"{name}_{key}": number(name, key) for key in keys})

# %% [markdown]
# ## 3. The table
#
# All rows are evaluated on the same test set: the same scenes, targets at 60°, 120° and 180°, novel views at three
# quarters of these angles, sampled with eta 1 (the last row, the model of section 7 that was trained with context
# dropout, with eta 0). Columns are for 180° unless another angle is given.
#
# - `minutes`: GPU-minutes of training; three models shared a GPU for nine minutes, which counts as three minutes each.
#   `steps`: the number of steps of 32 scenes in these minutes. Cheaper steps gave more of them; models of equal cost
#   made between 3,890 and 4,378 by chance. The full model made the most of these; `another seed` is the full model
#   again, with nearly the fewest.
# - `energy`: the energy score, lower is better. `skill`: the same, 0 for the deterministic model and 1 for true
#   draws; `60` at 60°; `novel` for the novel view. View-space diffusion samples the novel view as a target. Each scene
#   was sampled eight times, distilled twice.
# - `spread`: spread over error on disoccluded pixels; 1 is calibrated. `im. tv`: total variation of the images over
#   that of true pictures.
# - `body`, `decal`: the total variation distance of pooled frequencies of hidden things from their probabilities.
#   `mode`: the mode bias, how much too often samples show the most probable category of their own scene; below 0, too
#   rarely.
# - `cons.`: consistency of the two views, in dB.

# %% tags=["nbval-ignore-output"]
columns = {
    "energy_180": "energy", "energy_skill_180": "skill", "energy_skill_60": "60", "novel_energy_skill_180": "novel",
    "spread_skill_180": "spread", "sharpness_ratio_180": "im. tv", "hidden_factor_tv": "body",
    "decal_factor_tv": "decal", "lean": "mode", "consistency_180": "cons.",
}


def training_cost(name):
    """The GPU-minutes and the steps of the training of an ablation's model; zeros without a model."""
    record = trainings.get(SAMPLED_VARIANTS[name].variant, {})
    return record.get("gpu_minutes", 0.0), record.get("steps", 0)


def print_table(names):
    """Prints rows of the table, and records their metrics with the ends of their intervals."""
    print(f"{'':29}{'minutes':>8}{'steps':>6}" + "".join(f"{title:>7}" for title in columns.values()))
    for name in names:
        minutes, steps = training_cost(name)
        cells = (f"{number(name, key):7.{1 if 'cons' in key else 3}f}" for key in columns)
        cost = f"{minutes:8.1f}{steps:6}" if minutes else " " * 14
        print(f"{LABELS[name.removesuffix('_128')]:29}{cost}" + "".join(cells).replace("nan", "  -"))
        keys = [f"{key}{end}" for key in columns for end in ("", "_low", "_high")]
        run.record(**{f"{name}_{key}": number(name, key) for key in keys if key in all_numbers[name]})
        run.record(**{f"{name}_gpu_minutes": minutes})


print_table(LABELS)

# %% [markdown]
# ## 4. Without its parts
#
# - *no render*: the target's encoder gets no conditioning, which is its only information on the context;
# - *no features*, *no depth*: the conditioning render without these channels;
# - *no novel loss*: the loss compares nothing but the target's pixels;
# - *a transformer* in place of the U-Net, with about as many weights;
# - *two contexts*: trained with one or two fronts.
#
# One sample of each for the first two fronts, from behind and from the side. The render mainly carries the colour of the
# table.

# %%
parts = ["no_render", "no_features", "no_depth", "no_novel", "dit", "around_two"]
names = [FULL_MODEL, *parts]
image_columns = [example_views(name)[:2].flatten(0, 1) for name in names]
fig = plotting.image_grid(
    torch.stack(image_columns, 1), size=1.1, row_labels=["180°", "135°"] * 2,
    col_titles=[LABELS[name].replace("render, ", "render,\n").replace("contexts, ", "contexts,\n") for name in names],
)
run.savefig(fig, "gallery")
plt.show()

# %% [markdown]
# The energy score of an ablation relative to that of the full model, paired over scenes: right of zero the part was
# useful. Values beyond the right edge are printed there. Intervals over scenes do not include the variation between
# trainings. So the first line is the full model again, from another seed: a difference that is no larger than this one
# may be chance.

# %% tags=["nbval-ignore-output"]
parts = ["reseeded", *parts[:-1], "around", "around_two"]
gains_over = {
    full: {
        name: ablations.paired_gains(scores[full], scores[name]) for name in (*parts, "unconditional")
    }
    for full in (FULL_MODEL, "reseeded")
}
fig, axes = plt.subplots(1, 3, figsize=(9.5, 3.6), sharex=True, sharey=True, layout="constrained")
edge = 15
for i, name in enumerate(parts):
    for ax, d in zip(axes, evaluation.TARGET_ANGLES, strict=True):
        for prefix, fill in (("", "full"), ("novel_", "none")):
            gain = gains_over[FULL_MODEL][name][f"{prefix}energy_{d}"]
            error_bar = 100 * np.array([[gain.value - gain.low], [gain.high - gain.value]])
            y, color = i + (0.2 if prefix else -0.1), plotting.MUTED if name == "reseeded" else plotting.TARGET
            if 100 * gain.value > edge:
                ax.text(edge, y, f"{100 * gain.value:.0f} →", ha="right", va="center", color=color)
            else:
                style = {"fmt": "o", "fillstyle": fill, "ms": 5, "color": color, "capsize": 2}
                ax.errorbar(100 * gain.value, y, xerr=error_bar, **style)
            run.record(**gain.as_metrics(f"{name}_{prefix}gain_{d}"))
for ax, d in zip(axes, evaluation.TARGET_ANGLES, strict=True):
    ax.axvline(0, color=plotting.TRUE, lw=1, zorder=0)
    ax.set(title=f"{d}°", xlim=(-6, edge))
handles = [plt.Line2D([], [], marker="o", ls="", fillstyle=fill, color=plotting.TARGET) for fill in ("full", "none")]
fig.legend(handles, ["the target's view", "the novel view"], loc="outside upper right", ncols=2)
fig.supxlabel("energy score, % above the full model's", fontsize="medium")
axes[0].set_yticks(range(len(parts)), [LABELS[name] for name in parts])
axes[0].invert_yaxis()
run.savefig(fig, "parts")
plt.show()

print(f"all six energy scores together, relative to\n{'':26}{'the full model':24}the full model of another seed")
for name in (*parts, "unconditional"):
    cells = ""
    for full, suffix in ((FULL_MODEL, ""), ("reseeded", "_over_reseeded")):
        if name != full:
            gain = gains_over[full][name]["energies"]
            cells += f"{percent(gain):24}"
            run.record(**gain.as_metrics(f"{name}_energies_gain{suffix}"))
    print(f"{LABELS[name]:26}{cells}")

# %% [markdown]
# The loop that trained them, for a few steps of one ablation. These steps only show that it runs.

# %% tags=["nbval-ignore-output"]
variant = "no_depth"
if PROFILE == "gpu":
    log = harness.train(ablations.EXPERIMENT, variant, Path(FOLDER), MINUTES, batch_size=BATCH)
else:
    log = fit(variants.VARIANTS[variant].build_model(), tabletop.batches(1, 1, variants.PIXELS), steps=STEPS, progress=False)
print(f"{LABELS[variant]}: {log.steps} steps, loss {log.curve['loss'][0]:.2f} to {log.curve['loss'][-1]:.2f}")

# %% [markdown]
# ## 5. One target, or autoregressive sampling
#
# Parts that neither context nor target shows are rendered as an average. So one would sample a scene through several
# targets, each joining the context of the next. Below, scenes rendered from behind (180°) that were sampled through a
# target at 120° alone, and through one at 120° and then one at 240°. Both by the model that was trained with two
# contexts.

# %% tags=["nbval-ignore-output"]
samplers = {"redrawn": "true draws", "one_shot": "one-shot", "autoregressive": "autoregressive"}
fig = plotting.image_grid(
    torch.stack([example_views(name)[:, 0] for name in samplers]), size=1.2, row_labels=[*samplers.values()]
)
run.savefig(fig, "in_turn")
plt.show()
gains = ablations.paired_gains(scores["autoregressive"], scores["one_shot"])
print("one-shot relative to autoregressive sampling, from behind:")
for key, label in (("energy_180", "energy score"), ("novel_energy_180", "of the novel view")):
    print(f"{label:20}{percent(gains[key])} more")
gain = gains["consistency_180"]
print(f"{'consistency':20}{gain.value:.1f} dB ({gain.low:.1f} to {gain.high:.1f}) less")
run.record(**gains["energy_180"].as_metrics("autoregressive_gain_180"))
run.record(**gain.as_metrics("autoregressive_consistency_gain_180"))

# %% [markdown]
# ## 6. Larger images
#
# The paper trains at 64 x 64 first and continues at 128 x 128. So do we, from the weights of `06_inverse_graphics`, and
# so does the deterministic baseline of the skill. The networks are the same; more rays are rendered. The schedule is
# shifted: the mean of four pixels has half of their noise, so larger images need more noise. `minutes` and `steps` are
# those at 128 x 128, where both models shared one GPU for twelve minutes, with 16 scenes a step; the weights had 32
# minutes before.
#
# One sample of each of three scenes, and the first rows of the table: the same scenes, the same metrics. Hidden things
# are definite, edges are sharp. The table's pattern, of which the front shows a good part, is still a pale blur.

# %% tags=["nbval-ignore-output"]
names = {
    "redrawn_128": LABELS["redrawn"], "deterministic_128": LABELS["deterministic"], "unet_128": LABELS[FULL_MODEL]
}
fig = plotting.image_grid(
    torch.cat(list(map(example_views, names)), 1), size=1.7,
    col_titles=[f"{label}, {d}°" for label in names.values() for d in (180, 135)],
)
run.savefig(fig, "finer")
plt.show()
print_table(names)

# %% [markdown]
# Its initial weights are those of the model of `06_inverse_graphics`. Skill of both, each relative to a deterministic
# model of its own image size, which at 64 x 64 had 17 minutes:

# %% tags=["nbval-ignore-output"]
coarse, fine = to_flat(harness.load_results(evaluation.EXPERIMENT).rows)[evaluation.MAIN_SAMPLER], all_numbers["unet_128"]
print(f"{'skill':20}{'128 x 128':24}64 x 64")
for prefix, view in (("", "target"), ("novel_", "novel view")):
    for d in evaluation.TARGET_ANGLES:
        key = f"{prefix}energy_skill_{d}"
        cells = "".join(f"{with_interval(numbers, key):24}" for numbers in (fine, coarse))
        print(f"{f'{view}, {d}°':20}{cells}".rstrip())
        run.record(**{f"unet_128_{key}{end}": fine[f"{key}{end}"] for end in ("", "_low", "_high")})

# %% [markdown]
# ## 7. The cost of sampler options
#
# *Guidance* extrapolates away from the unconditional prediction, a *temperature* below 1 scales all noise down,
# *thresholding* divides each predicted picture by a quantile of its absolute pixel values where that is above 1. All are
# common, and the released code of the paper samples RealEstate10K with a guidance of 2, a temperature of 0.85 and
# thresholding always, with DDIM (eta 0, as here). Each of the three changes the distribution. Below, each one alone, but
# thresholding with a guidance of 2, since without guidance no picture leaves its range.
#
# All from behind, with intervals over scenes. The *factor TV* is the total variation distance between pooled frequencies
# and probabilities, of body or decal, whichever is larger. The *mode bias* is how much too often samples show the most
# probable category of their scene. Two radiance fields cannot be subtracted, so guidance changes the picture in each
# step (open), and the scene (filled) is the network's output for the last noisy picture.

# %% tags=["nbval-ignore-output"]
measures = {  # key of a metric -> its title, its best value, and the limits of the axis
    "spread_skill_180": ("spread over error", 1, (0.78, 1.02)),
    "energy_gain": ("energy score, % above plain", 0, (-1.5, 22)),
    "factor_tv": ("factor TV", 0, (-0.01, 0.15)),
    "lean": ("mode bias", 0, (-0.055, 0.07)),
}
settings = {"guidance": {"1": "plain"}, "temperature": {"1": "plain"}, "threshold": {"off": "guidance_2"}}
for name in SAMPLER_OPTIONS:
    if "_" in name:
        option, value = name.split("_")
        settings[option][value] = name
plain_energy = number("plain", "energy_180")
for name in SAMPLER_OPTIONS:
    gain = ablations.paired_gains(scores["plain"], scores[name])["energy_180"]
    numbers, bounds = all_numbers[name], {"": gain.value, "_low": gain.low, "_high": gain.high}
    numbers |= {f"energy_gain{end}": 100 * value for end, value in bounds.items()}
    numbers["picture_energy_gain"] = 100 * (number(name, "picture_energy_180") / plain_energy - 1)
for option, values in settings.items():
    fig, axes = plt.subplots(1, 4, figsize=(10, 2.5), layout="constrained")
    for ax, (key, (title, ideal, limits)) in zip(axes, measures.items(), strict=True):
        for prefix, fill, label in (("", "full", "the scene's render"), ("picture_", "none", "the sampled picture")):
            keys = [f"{prefix}{key}{end}" for end in ("", "_low", "_high")]
            value, low, high = (np.array([number(name, key) for name in values.values()]) for key in keys)
            if np.isfinite(value).all():
                error_bars = np.nan_to_num([value - low, high - value])
                x = np.arange(len(values)) + (0.1 if prefix else 0)
                style = {"fmt": "o-", "lw": 1, "capsize": 3, "color": plotting.SAMPLES}
                ax.errorbar(x, value, error_bars, fillstyle=fill, label=label, **style)
                run.record(**{f"{option}_{prefix}{key}": value})
        ax.axhline(ideal, color=plotting.TRUE, lw=1)
        ax.set_xticks(range(len(values)), list(values))
        ax.set(xlabel=option, ylim=limits)
        ax.set_title(title, fontsize="medium")
    fig.legend(*axes[-1].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    run.record(**{f"{option}_values": list(values)})
    run.savefig(fig, option)
    plt.show()

# %% [markdown]
# Samples at each setting: four scenes for one front, rendered from behind, and the sampled pictures.

# %% tags=["nbval-ignore-output"]
from ipywidgets import SelectionSlider, interact


def show_samples(name):
    views = torch.from_numpy(images[f"{name}_images"])[0].movedim(-3, -1) / 255  # (samples, 2, H, W, 3)
    cells = torch.cat([front[:1].expand(-1, 2, -1, -1, -1), views]).transpose(0, 1)
    plotting.image_grid(cells, size=1.5, row_labels=["scene", "picture"], col_titles=["front", *["sample"] * 4])
    plt.show()


slider = interact(show_samples, name=SelectionSlider(options=list(SAMPLER_OPTIONS)))

# %% [markdown]
# ## 8. Clips in another format
#
# The paper trains on clips of RealEstate10K: a text file with a camera in each line, and frames named by their times.
# The commands `python -m fwdiff_lite.experiments real_clips train` and `... evaluate` read such a folder, `--data`. We
# may not distribute that data set, so here two clips of the tabletop are written in its format, from a simulated hand-held camera.

# %%
import tempfile

import imageio.v3 as imageio

from fwdiff_lite.datasets import realestate10k, view_sampler
from fwdiff_lite.problems.inverse_graphics import synthetic_realestate10k
from fwdiff_lite.experiments.inverse_graphics import real_clips

frame_gap, side = (8, 16), 16  # frames from a context to its target; pixels along each side of an image
temporary_folder = tempfile.TemporaryDirectory()
folder = Path(temporary_folder.name)
synthetic_realestate10k.write_clips(folder, 2, 24, seed=1)
clips, warnings = realestate10k.read_folder(folder, frame_gap)
print(f"{len(clips)} clips, {len(warnings)} warnings; a frame's line, with its time in microseconds:")
print((folder / "clip00.txt").read_text().splitlines()[1])
strip = [torch.from_numpy(imageio.imread(file)) / 255 for clip in clips for file in clip.files[::6]]
fig = plotting.image_grid(
    torch.stack(strip).unflatten(0, (2, -1)), size=1.2, row_labels=[clip.name for clip in clips],
    col_titles=[f"{time / 1e6:.1f} s" for time in clips[0].timestamps[::6]],
)
run.savefig(fig, "clips")
plt.show()

# %% [markdown]
# Now all cameras of one file are shifted by one line. Every frame still has a time and every time a camera, but that of
# its neighbour. Only the pictures show the error: points that match between frames do not lie on the epipolar lines of
# these cameras.

# %% tags=["nbval-ignore-output"]
text = (folder / "clip00.txt").read_text().splitlines()
times, cameras = zip(*(line.split(" ", 1) for line in text[1:]), strict=True)
shifted = [f"{time} {camera}" for time, camera in zip(times[:-1], cameras[1:], strict=True)]
(folder / "clip00.txt").write_text("\n".join([text[0], *shifted]) + "\n")
valid_clips, warnings = realestate10k.read_folder(folder, frame_gap, "skip")
print(*warnings, sep="\n")
pose_warnings = [line for line in warnings if line.startswith("clip00: poses")]
run.record(clips_read=len(clips), clips_left=len(valid_clips), clips_shifted_caught=len(pose_warnings))

# %% [markdown]
# A small model on the valid clips, whose near and far plane are given in their own unit. With two clips the model only
# memorises them. The example shows no more than that the loss falls, and that training and evaluation run.

# %% tags=["nbval-ignore-output"]
steps = run.pick(smoke=4, cpu=100, gpu=100)
tiny = {"samples_per_ray": 16, "width": 16, "widths": (16, 32), "num_blocks": 1, "num_attention_levels": 0}
model = variants.make_clip_variant("unet", clips, frame_gap, (1.0, 8.0), side=side).build_model(**tiny)
views = view_sampler.load_views(clips, view_sampler.evaluation_list(clips, frame_gap), side)
initial_numbers = real_clips.evaluate(real_clips.sample_posterior(model.eval(), views, k=2, steps=4), views)
batch = view_sampler.batches(clips, 8, frame_gap, 64, side)
losses = fit(model, batch, steps=steps, learning_rate=4e-3, progress=False).curve["loss"]
numbers = real_clips.evaluate(real_clips.sample_posterior(model, views, k=2, steps=4), views)
initial_loss, final_loss = (float(np.mean(part)) for part in (losses[:10], losses[-10:]))
initial_psnr, psnr = initial_numbers["psnr_target_one"], numbers["psnr_target_one"]
print(f"loss {initial_loss:.2f} to {final_loss:.2f}; PSNR of a target {initial_psnr:.1f} to {psnr:.1f}")
run.record(clips_loss_first=initial_loss, clips_loss_last=final_loss, clips_loss_ratio=final_loss / initial_loss)
run.record(**{f"clips_{key}": value for key, value in numbers.items()})

# %% [markdown]
# ## What held, and what did not
#
# **Held.** With a scene inside, two views show one thing. They agree 13 to 18 dB better than those of view space,
# whose views of one sample agree hardly better than views of two draws that only share the front. From behind they
# are still 7 dB below true draws; at 60° they are above them, where blur helps. Of the parts the novel loss certainly
# matters: 17 % of the sum of all six energy scores, all of it in novel views. Then come features and the U-Net with
# 3 % each.
#
# **Less certain.** The render as a whole (2.5 %) and depth (1.8 %) improve the full model of the table. Relative to that
# of another seed it is 2.1 and 1.3 %, with intervals that reach zero, though that one had fewer steps than the model
# without render (which is cheaper) and no more than the one without depth. The two seeds differ by half a percent, in
# single scores by up to 1.6 %, and all other models were trained once.
#
# **The purpose of the render.** Without it samples depend less on what their own picture says of the probabilities: they
# show the most probable category eleven percentage points too rarely. From behind scores are 6 % larger.
#
# **View space gives the better pictures.** In all six energy scores it beats the full model, by 5 to 18 %, and the total
# variation of its pictures is too large. Several things may help it: its loss covers every pixel, its steps are cheaper,
# no two views have to agree, and a novel view is sampled as a target. We did not separate them. The model of
# `06_inverse_graphics`, trained ten times as long and compared with a better deterministic model, has more skill in
# targets, in novel views only at 180°. We do not know how view space would do after as long a training.
#
# **Distilling** turns the pictures of view space into one scene, 3 to 6 dB less consistent than ours. All scores
# together are as ours, worse from behind and better near the front. But it is biased towards the mode, by sixteen
# points, and spreads too little (0.64). And each scene costs an optimisation.
#
# **Without a picture**, after three minutes, samples are as a set 1.7 times as far from prior draws as these from each
# other, and their novel views 2.6 times. Perhaps they need longer. Our simple tables cannot show whether such models
# fail on richer scenes, as the paper says.
#
# **Two contexts** cost 7 % at equal minutes, and a second front, which hides the same parts, does not help.
# Autoregressive sampling through two targets is 1.3 dB more consistent and scores no better. From behind, both have only
# three quarters of the quality that a target from behind gives.
#
# **Larger images.** After six minutes at 128 x 128 samples come 84 % of the way from a deterministic prediction to the
# truth behind the table, with frequencies within five points of the probabilities and spread over error at 0.96. Two
# views agree to 32 dB, 4 below true draws. In all six views skill is somewhat below that at 64 x 64, the most at 60°
# (0.59 for 0.72). Total variation is 12 % above that of true pictures: apparently fine streaks on faces.
#
# **Options.** None lowers the energy score. Guidance raises it the most, by 9 % at 3 (20 % in the sampled picture), and
# the factor TV goes from 4 to 11 points. A temperature of 0.7 removes the most of the spread. The mode bias rises with
# both, though only at their largest settings it is certainly above 0; at 1.5 and 0.85 it is nearer 0 than without. The
# additional effect of thresholding is not measurable. Our guidance extrapolates from a weak model: it had no context in
# 15 % of three minutes. And we did not try the three together, as the released code does.
#
# **Clips in RealEstate10K's format** are read, checked, used for training and for evaluation, and cameras that are
# shifted by one line are detected. All was tried on clips that the tabletop wrote; real footage was not available.
#
# **Limits.** Three minutes are few: `06_inverse_graphics` had 32, and parts may have another effect by then. Learning
# rate and widths were chosen for the full model.
#
# ## On your own
#
# 1. The deterministic prediction is more consistent than any model's samples. Why does it not win?
# 2. Without the novel loss targets score as with it. Where does the table show its purpose?
# 3. In the slider, compare a guidance of 3 with the plain sampler: where do scene and picture differ?
#
# <details><summary>Answers</summary>
#
# 1. It is one prediction for many possible scenes, a blend, and a blend looks the same from everywhere. In the table its
#    energy score is the worst of all models with a context picture.
# 2. In `novel` and `cons.`: its novel views have less than a quarter of the skill, and agree with the target 5 dB
#    less.
# 3. Everywhere, in contrast. The picture's colours are harsher and its edges drawn twice, for the picture is what
#    guidance extrapolates; the scene is as dull as the plain one. And guidance decides cases in which the plain sampler
#    blends two colours.
#
# </details>
#
# **Further reading.** Zhou and Tulsiani (2023), *SparseFusion*, [arXiv 2212.00792](https://arxiv.org/abs/2212.00792).
# Anciukevičius et al. (2023), *RenderDiffusion*, [arXiv 2211.09869](https://arxiv.org/abs/2211.09869). Ho and
# Salimans (2022), *Classifier-free diffusion guidance*, [arXiv 2207.12598](https://arxiv.org/abs/2207.12598). Saharia
# et al. (2022), *Imagen*, [arXiv 2205.11487](https://arxiv.org/abs/2205.11487) (thresholding).

# %%
run.claim(
    "Section 4.1 taken apart, each model trained for three GPU-minutes. Two views of one sampled scene "
    "agree {view_space_consistency_gain_180:.0f} to {view_space_consistency_gain_60:.0f} dB better than two "
    "of view-space diffusion, which has no scene, and whose single pictures score better "
    "({view_space_energies_gain:.0%} of energy score). Without the loss on novel views scores are "
    "{no_novel_energies_gain:.0%} larger, without the render's features {no_features_energies_gain:.0%}, "
    "without its depth {no_depth_energies_gain:.0%}. Trained further at 128 x 128, samples from behind come "
    "{unet_128_energy_skill_180:.0%} of the way from a deterministic model's energy score to the truth's.",
    thumbnail="ring.png",
)
for d in (60, 120, 180):
    run.must_show(**{f"view_space_consistency_gain_{d}_low": (3.0, None)})
    run.must_show(**{f"unet_128_energy_skill_{d}": None, f"unet_128_novel_energy_skill_{d}": None})
for variant in ("no_render", "no_features", "no_depth", "no_novel", "dit", "unconditional", "around"):
    run.must_show(**{f"{variant}_energies_gain_low": (0.0, None)})
for variant in ("unet", "view_space", "no_render", "no_novel", "dit"):
    run.must_show(**{f"{variant}_gpu_minutes": (3.0, 4.0)})
run.must_show(
    deterministic_128_energy_180=None,
    redrawn_128_energy_180=None,
    clips_shifted_caught=(1, 1),
    clips_left=(1, 1),
    clips_loss_ratio=(0.0, 0.2),
    clips_psnr_target_one=None,
)
run.finish()
