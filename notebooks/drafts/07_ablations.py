# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What each part buys
#
# A model has many parts, and each was somebody's idea. Take one away, train the rest for as long, and ask the same
# questions: what was it good for?
#
# **What you will see.** The model of `06_inverse_graphics` against what one would try instead: diffusion in the space of
# views, with no scene inside, and a model without any context. Then without its parts, one at a time. Last, what happens
# to the odds when a sampler is guided, cooled or thresholded.
#
# **What you need.** `06_inverse_graphics`. All models were trained on a GPU, for equally few minutes, and examined on the
# same held-out scenes; what they scored is loaded. Nothing is downloaded.
#
# **What it rebuilds.** The comparison of section 4.1 and figure 4 of *Diffusion with Forward Models* (Tewari et al.,
# NeurIPS 2023, [arXiv 2306.11719](https://arxiv.org/abs/2306.11719)), on scenes that we make ourselves.

# %% tags=["parameters"]
PROFILE = "cpu"
# The profile "gpu" trains one of the ablations anew, and goes on where an earlier run stopped.
MINUTES = 3.5  # of training
FOLDER = "../build/07_ablations"  # for its weights

# %% tags=["nbval-ignore-output"]
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from fwdiff_lite import plotting
from fwdiff_lite.notebook import Run
from fwdiff_lite.problems.inverse_graphics import comparisons, study, tabletop, train
from fwdiff_lite.problems.inverse_graphics.consistency import decibels, inconsistency

run = Run("07_ablations", PROFILE)
N = run.pick(smoke=2, cpu=4, gpu=4)  # held-out scenes that are looked at here
STEPS = run.pick(smoke=1, cpu=4, gpu=20)  # of training, here
told, pictures = comparisons.recorded()
rows, sweeps, trainings = told["rows"], told["sweeps"], told["trainings"]
run.opening()


def minutes(row):
    """The GPU-minutes that a row's model was trained for, its weights' earlier trainings included."""
    found = trainings.get(comparisons.ROWS[row].arm, {})
    return found.get("gpu_minutes", 0.0) + (found.get("before") or {}).get("gpu_minutes", 0.0)


def rgb(images):
    """Pictures (..., 3, H, W) in 256 levels, for matplotlib."""
    return (torch.as_tensor(images).float() / 255).movedim(-3, -1)


# %% [markdown]
# ## 1. Without a scene
#
# *View-space diffusion* paints the target's picture. It has our encoder and our deterministic render of the context, and it
# is a good painter. But it has no scene, so that two of its views are painted without knowing of each other (SparseFusion,
# first stage). One can *distil* many views into one scene afterwards, by fitting one to them (second stage); that is an
# optimisation for every sample.
#
# Below, one sample of each: its target at 180 degrees, and what it shows from 135.

# %%
names = {"redrawn": "true draws", "unet": "ours", "view_space": "view space", "distilled": "distilled"}
names = {name: words for name, words in names.items() if name in rows}
cells = [rgb(pictures[f"row_{name}_pictures"])[:, 0, -1] for name in names]  # (scenes, V, H, W, 3)
fig = plotting.image_grid(
    torch.stack([torch.cat([cell[i] for cell in cells]) for i in range(len(cells[0]))]), size=1.15,
    col_titles=[f"{words}, {d}°" for words in names.values() for d in (180, 135)],
)
run.savefig(fig, "views")
plt.show()

# %% [markdown]
# Do the two views show one scene? Where a hidden body stands nobody knows, but the far sides of box and screen stand where
# they stand. So the *consistency* of two views is the PSNR between what they show of the same points, on surfaces that the
# context does not see but whose place it determines. True draws give the ceiling. Views of two different true draws, each
# perfect by itself, give the floor. A blur is consistent too: the measure is not to be had alone.

# %% tags=["nbval-ignore-output"]
names = ["redrawn", "unet", "distilled", "view_space", "mixed"]
names = [name for name in names if name in rows]
fig, ax = plt.subplots(figsize=(6.5, 2.6))
for i, name in enumerate(names):
    found = rows[name]["numbers"]
    for j, d in enumerate(study.DEGREES):
        at, low, high = (found[f"consistency_{d}{end}"] for end in ("", "_low", "_high"))
        ax.errorbar(i + 0.2 * (j - 1), at, [[at - low], [high - at]], fmt="o", capsize=3, color=f"C{j}",
                    label=f"{d}° with {round(study.BETWEEN * d)}°" if i == 0 else None)
ax.set(xticks=range(len(names)), xticklabels=[name.replace("_", " ") for name in names], ylabel="consistency, dB")
ax.legend()
run.savefig(fig, "consistency")
plt.show()
ours = rows[comparisons.FULL]
for name in ("view_space", "distilled"):
    gains = comparisons.against(ours["each"], rows[name]["each"])
    for d in study.DEGREES:
        gain = gains[f"consistency_{d}"]
        print(f"ours over {name}, {d}°: {gain.value:.1f} dB ({gain.low:.1f} to {gain.high:.1f})")
        run.record(**{f"{name}_consistency_gain_{d}": gain.value, f"{name}_consistency_gain_{d}_low": gain.low})

# %% [markdown]
# Ceiling and floor again, computed here on a few of the scenes.

# %% tags=["nbval-ignore-output"]
exam = study.exam(N, 2)
points, generator = comparisons.common_points(exam)[-1], torch.Generator().manual_seed(0)
for name, drawn in (("redrawn", exam.redrawn), ("mixed", comparisons.mixed(exam.redrawn))):
    live = decibels(inconsistency(drawn[:, :, -1, 0], drawn[:, :, -1, 1], points), generator).value
    print(f"{name}: {live:.1f} dB here, {rows[name]['numbers']['consistency_180']:.1f} dB on all scenes")
    run.record(**{f"live_{name}_consistency": live})

# %% [markdown]
# ## 2. The table
#
# All rows sat the same examination.
#
# - `energy`: the energy score at 180 degrees, lower is better, and its skill: 0 is the deterministic model, 1 true draws.
# - `novel`: the skill from 135 degrees, where sampling did not look.
# - `spread`: spread over error on unseen pixels; 1 is calibrated. `sharp`: total variation over that of true pictures.
# - `odds`: how far pooled frequencies of hidden things are from the truth (total variation).
# - `cons.`: consistency of the views from 180 and 135 degrees, in dB.
# - `set`: sliced Wasserstein distance to true draws over that of true draws to each other.

# %% tags=["nbval-ignore-output"]
columns = {
    "energy_180": "energy", "energy_skill_180": "skill", "novel_energy_skill_180": "novel", "spread_skill_180": "spread",
    "sharpness_ratio_180": "sharp", "factor_tv": "odds", "consistency_180": "cons.", "set_distance_180": "set",
    "seconds_an_answer": "seconds",
}
print(f"{'':16}{'minutes':>8}" + "".join(f"{title:>9}" for title in columns.values()))
for name, row in rows.items():
    if name not in comparisons.ROWS:
        continue
    found = row["numbers"]
    print(f"{name:16}{minutes(name):8.1f}" + "".join(f"{found.get(key, np.nan):9.3g}" for key in columns))
    run.record(**{f"{name}_{key}": found[key] for key in columns if key in found and key != "seconds_an_answer"})
    run.record(**{f"{name}_gpu_minutes": minutes(name)})

# %% [markdown]
# ## 3. Without its parts
#
# How much larger an ablation's energy score is than that of the full model, scene by scene, with intervals over scenes:
# right of zero the part was worth something. Filled, the target's view; open, the novel one.

# %% tags=["nbval-ignore-output"]
parts = {
    "no_render": "without the render", "no_features": "without its features", "no_depth": "without its depth",
    "no_novel": "without the novel loss", "around": "up to two contexts, given one", "around_two": "and given two",
    "dit": "a transformer", "unconditional": "without any context",
}
parts = {name: words for name, words in parts.items() if name in rows}
fig, axes = plt.subplots(1, 3, figsize=(9.5, 3), sharey=True, layout="constrained")
for i, name in enumerate(parts):
    gains = comparisons.against(ours["each"], rows[name]["each"])
    better = []
    for ax, d in zip(axes, study.DEGREES, strict=True):
        for kind, fill in (("", "full"), ("novel_", "none")):
            gain = gains[f"{kind}energy_{d}"]
            ax.errorbar(100 * gain.value, i - (0.2 if kind else 0), xerr=[[100 * (gain.value - gain.low)],
                        [100 * (gain.high - gain.value)]], fmt="o", fillstyle=fill, color=plotting.TARGET, capsize=3)
            run.record(**{f"{name}_{kind}gain_{d}": gain.value, f"{name}_{kind}gain_{d}_low": gain.low})
    better = [measure for measure, gain in gains.items() if gain.low > 0]
    worse = [measure for measure, gain in gains.items() if gain.high < 0]
    print(f"{parts[name]}: the full model is better in {', '.join(better) or 'nothing'}; worse in {', '.join(worse) or 'nothing'}")
    run.record(**{f"{name}_full_is_better_in": len(better)})
for ax, d in zip(axes, study.DEGREES, strict=True):
    ax.axvline(0, color=plotting.MUTED, lw=1)
    ax.set(title=f"{d}°", xlabel="energy score, % above ours")
axes[0].set(yticks=range(len(parts)), yticklabels=parts.values())
run.savefig(fig, "parts")
plt.show()

# %% [markdown]
# The loop that trained them, for a few steps of one of them.

# %% tags=["nbval-ignore-output"]
arm = "no_depth"
if PROFILE == "gpu":
    Path(FOLDER).mkdir(parents=True, exist_ok=True)
    done = train.train(train.untrained(arm), Path(FOLDER), arm, seconds=60 * MINUTES)
else:
    from fwdiff_lite import fit

    batch = tabletop.batches(1, 1, train.PIXELS)
    done = fit(train.untrained(arm), batch, steps=STEPS, progress=False)
print(f"{arm}: {done.steps} steps, loss {done.curve['loss'][0]:.2f} to {done.curve['loss'][-1]:.2f}")

# %% [markdown]
# ## 4. One target, or one after another
#
# What neither context nor target sees comes out as a mean. A scene sampled through one target at 120 degrees, and through
# two, at 120 and at 240, both seen from behind.

# %% tags=["nbval-ignore-output"]
keys = ("energy_skill_180", "novel_energy_skill_180", "sharpness_ratio_180", "spread_skill_180", "factor_tv")
for name in ("one_shot", "autoregressive"):
    found = rows[name]["numbers"]
    print(f"{name:16}" + "  ".join(f"{key} {found[key]:.3g}" for key in keys))

# %% [markdown]
# ## 5. What a sampler's options cost
#
# Guidance extrapolates away from the model without context, a temperature shrinks all noise, thresholding shrinks each
# predicted picture into its range. All are common, and the released code of the paper has all three on. None leaves the
# distribution as it was.

# %% tags=["nbval-ignore-output"]
measures = {"spread_skill_180": ("spread over error", 1), "energy_180": ("energy score", None), "lean": ("lean to the likeliest", 0)}
for option, record in sweeps.items():
    values = record["values"]
    fig, axes = plt.subplots(1, 3, figsize=(8, 2.2), layout="constrained")
    for ax, (key, (words, ideal)) in zip(axes, measures.items(), strict=True):
        found = [told["numbers"][key] for told in values.values()]
        ax.plot(list(values), found, "o-", color=plotting.SAMPLES)
        if ideal is not None:
            ax.axhline(ideal, color=plotting.MUTED, lw=1)
        ax.set(xlabel=option, title=words)
        run.record(**{f"{option}_{key}": found})
    run.savefig(fig, option)
    plt.show()

# %% tags=["nbval-ignore-output"]
from ipywidgets import SelectionSlider, interact

choices = [(f"{option} {value}", f"sweep_{option}_{value}") for option in sweeps for value in sweeps[option]["values"]]


def look(which):
    found = rgb(pictures[which])[:, :, 0, 0]  # (scenes, samples, H, W, 3)
    plotting.image_grid(found, size=1.5)
    plt.show()


moving = interact(look, which=SelectionSlider(options=choices))

# %% [markdown]
# ## What held, and what did not
#
# To be written from the recorded numbers.

# %%
run.finish()
