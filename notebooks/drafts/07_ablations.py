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
# views, with no scene inside, and a model that is shown no picture. Then without its parts, one at a time, and with finer
# pictures. Last, what becomes of the odds when a sampler is guided, cooled or thresholded.
#
# **What you need.** `06_inverse_graphics`. All models were trained on a GPU, for equally few minutes, and examined on the
# same held-out scenes; what they scored is loaded. Nothing is downloaded.
#
# **What it rebuilds.** The comparison of section 4.1 and figure 4 of *Diffusion with Forward Models* (Tewari et al.,
# NeurIPS 2023, [arXiv 2306.11719](https://arxiv.org/abs/2306.11719)), on scenes that we make ourselves.

# %% tags=["parameters"]
PROFILE = "cpu"
# The profile "gpu" trains one of the ablations anew, and goes on where an earlier run stopped.
MINUTES = 3.0  # of training
BATCH = 32  # scenes a step
FOLDER = "../build/07_ablations"  # for its weights

# %% tags=["nbval-ignore-output"]
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from fwdiff_lite import fit, plotting
from fwdiff_lite.notebook import Run
from fwdiff_lite.problems.inverse_graphics import comparisons, study, tabletop, train
from fwdiff_lite.problems.inverse_graphics.comparisons import FULL, OPTIONS, ROWS
from fwdiff_lite.problems.inverse_graphics.consistency import decibels, inconsistency

run = Run("07_ablations", PROFILE)
STEPS = run.pick(smoke=1, cpu=4, gpu=20)  # of training, here
told, pictures = comparisons.recorded()
rows, trainings = told["row"], told["training"]
WORDS = {
    "redrawn": "true draws", "mixed": "true draws, mixed", "prior": "true draws, blind", "unet": "the full model",
    "reseeded": "another seed", "view_space": "view space", "distilled": "view space, distilled",
    "deterministic": "deterministic", "unconditional": "no picture", "no_render": "no render",
    "no_features": "render, no features", "no_depth": "render, no depth", "no_novel": "no novel loss",
    "dit": "a transformer", "guided": "trained for guidance", "around": "two contexts, shown one",
    "around_two": "two contexts, shown two", "one_shot": "two contexts, one-shot",
    "autoregressive": "two contexts, in turn",
}
run.opening()


def number(name, key):
    """A measure of a row, nan where it has none."""
    return rows[name]["numbers"].get(key, np.nan)


def pair(name):
    """Two views of one sample of each scene that is shown, from behind and from 135 degrees (scenes, 2, H, W, 3)."""
    return torch.from_numpy(pictures[f"row_{name}_pictures"])[:, 0].movedim(-3, -1) / 255


# %% [markdown]
# ## 1. Without a scene
#
# *View-space diffusion* paints the target's picture, as the first stage of SparseFusion does. It has our encoder, our
# deterministic render of the context, and the same minutes of training. But it has no scene: two of its views are painted
# without knowing of each other. One can *distil* its views into one scene afterwards, by fitting one to them all around, in
# the manner of SparseFusion's second stage. That is an optimisation for every sample.
#
# Below, three fronts, and one sample of each from behind (180°) and from the side (135°).

# %%
exam = study.exam(len(pictures[f"row_{FULL}_pictures"]), 2)
front = exam.context.value.movedim(-3, -1) / 2 + 0.5  # (scenes, 1, H, W, 3)
names = ["redrawn", "unet", "view_space"]
fig = plotting.image_grid(
    torch.cat([front, *map(pair, names)], 1), size=1.05,
    col_titles=["front", *(f"{WORDS[name].split(', ')[-1]}\n{d}°" for name in names for d in (180, 135))],
)
run.savefig(fig, "views")
plt.show()

# %% [markdown]
# Each picture by itself is a good one. The same from all around, for two fronts, with what distilling makes of the painted
# pictures: it settles their quarrel, scene by scene.

# %%
print(f"one distilling takes {told['ring']['views']['seconds']:.0f} seconds on a {told['ring']['views']['hardware']}")
kinds = {"painted": "view space", "distilled": "distilled", FULL: WORDS[FULL]}
views = {name: torch.from_numpy(pictures[f"ring_views_{name}"]).movedim(-3, -1) / 255 for name in kinds}
fig = plotting.image_grid(
    torch.stack([views[name][i] for i in range(comparisons.RING_SHOWN) for name in kinds]), size=0.9,
    row_labels=[*kinds.values()] * comparisons.RING_SHOWN, col_titles=[f"{d}°" for d in comparisons.RING],
)
run.savefig(fig, "ring")
plt.show()

# %% [markdown]
# Do two views show one scene? Where a hidden body stands nobody knows; the far sides of box and screen stand where they
# stand. So the *consistency* of two views is the PSNR between what they show of the same points, on surfaces that the
# context does not see but whose place it determines. True draws are the reference: it is finite, since what one picture's
# pixel shows lies between pixels of the other. Views of two different true draws, each perfect by itself, are the floor. A
# blur is consistent, too, and can exceed the reference, so the measure does not suffice alone. (The deterministic answer's
# two views are of one scene.)

# %% tags=["nbval-ignore-output"]
names = ["redrawn", "deterministic", "unet", "distilled", "view_space", "mixed"]
fig, ax = plt.subplots(figsize=(7, 2.8), layout="constrained")
for j, (d, color) in enumerate(zip(study.DEGREES, (plotting.TARGET, plotting.SAMPLES, plotting.CONTEXT), strict=True)):
    at, low, high = (np.array([number(name, f"consistency_{d}{end}") for name in names]) for end in ("", "_low", "_high"))
    label = f"{d}° with {round(study.BETWEEN * d)}°"
    ax.errorbar(np.arange(len(names)) + 0.2 * (j - 1), at, (at - low, high - at), fmt="o", capsize=3, color=color, label=label)
ax.set(ylabel="consistency, dB", ylim=(0, None))
ax.set_xticks(range(len(names)), [WORDS[name].replace(", ", ",\n") for name in names])
ax.legend(loc="lower left", ncols=3)
run.savefig(fig, "consistency")
plt.show()
print("the full model over another, its consistency and by how much the other's energy score is larger:")
ours = rows[FULL]
for name in ("view_space", "distilled"):
    gains = comparisons.against(ours["each"], rows[name]["each"])
    for d in study.DEGREES:
        gain, scores = gains[f"consistency_{d}"], [gains[f"{kind}energy_{d}"] for kind in ("", "novel_")]
        cells = "".join(f"{100 * x.value:7.0f} % ({100 * x.low:.0f} to {100 * x.high:.0f})" for x in scores)
        print(f"{WORDS[name]:22}{d:4}° {gain.value:6.1f} dB ({gain.low:.1f} to {gain.high:.1f}); target, novel{cells}")
        run.record(**gain.named(f"{name}_consistency_gain_{d}"))
    run.record(**gains["energies"].named(f"{name}_energies_gain"))

# %% [markdown]
# Ceiling and floor again, computed here on a few of the scenes.

# %% tags=["nbval-ignore-output"]
points, generator = comparisons.common_points(exam)[-1], torch.Generator().manual_seed(0)
for name, drawn in (("redrawn", exam.redrawn), ("mixed", comparisons.mixed(exam.redrawn))):
    live = decibels(inconsistency(drawn[:, :, -1, 0], drawn[:, :, -1, 1], points), generator).value
    print(f"{WORDS[name]:18}{live:6.1f} dB on these {len(exam.truth)}, {number(name, 'consistency_180'):.1f} dB on all scenes")
    run.record(**{f"live_{name}_consistency": live})

# %% [markdown]
# ## 2. Without a picture
#
# RenderDiffusion has a scene inside, but no context: the noisy target alone makes the scene. Its samples, each from another
# noise, beside true draws of any table. They follow no picture, so they can only be judged as a set. `set`: how far samples
# are from true draws, over how far true draws are from others (sliced Wasserstein distance): 1 is perfect.

# %%
names = ["prior", "unconditional"]
fig = plotting.image_grid(
    torch.cat(list(map(pair, names)), 1), size=1.2,
    col_titles=[f"{'true draws' if name == 'prior' else 'samples'}, {d}°" for name in names for d in (180, 135)],
)
run.savefig(fig, "blind")
plt.show()
print(f"{'':18}" + "".join(f"{title:>12}" for title in ("set", "novel set", "sharp")))
keys = ("set_distance_180", "novel_set_distance_180", "sharpness_ratio_180")
for name in names:
    print(f"{WORDS[name]:18}" + "".join(f"{number(name, key):12.2f}" for key in keys))
    run.record(**{f"{name}_{key}": number(name, key) for key in keys})

# %% [markdown]
# ## 3. The table
#
# All rows sat the same examination: the same scenes, targets at 60°, 120° and 180°, novel views at three quarters of the
# way, sampled with eta 1. Columns are of 180° where nothing else is said.
#
# - `minutes`: of a GPU, for training, each model alone on one. `steps`: how many steps of 32 scenes that gave it.
# - `energy`: the energy score, lower is better. `skill`: the same, 0 for the deterministic model and 1 for true draws;
#   `60` at 60°; `novel` for the novel view. (View-space diffusion is asked for it as for a target.)
# - `spread`: spread over error on unseen pixels; 1 is calibrated. `sharp`: total variation over that of true pictures.
# - `body`, `decal`: how far pooled frequencies of hidden things are from the odds (total variation).
# - `cons.`: consistency of the two views, in dB.

# %% tags=["nbval-ignore-output"]
columns = {
    "energy_180": "energy", "energy_skill_180": "skill", "energy_skill_60": "60", "novel_energy_skill_180": "novel",
    "spread_skill_180": "spread", "sharpness_ratio_180": "sharp", "hidden_factor_tv": "body", "decal_factor_tv": "decal",
    "consistency_180": "cons.",
}


def training(name):
    """The GPU-minutes that a row's model was trained for, its weights' earlier trainings included, and its last steps."""
    arm = ROWS[name.removesuffix("_128")].arm
    found = trainings.get(train.named(arm, 128) if name.endswith("_128") else arm, {}) if arm else {}
    return found.get("gpu_minutes", 0.0) + (found.get("before") or {}).get("gpu_minutes", 0.0), found.get("steps", 0)


def table(names):
    """Prints rows of the table, and records them with the ends of their intervals."""
    print(f"{'':26}{'minutes':>7}{'steps':>7}" + "".join(f"{title:>8}" for title in columns.values()))
    for name in names:
        minutes, steps = training(name)
        cells = "".join(f"{number(name, key):8.3g}".replace("nan", "  -") for key in columns)
        print(f"{WORDS[name.removesuffix('_128')]:26}{minutes:7.1f}{steps:7}" + cells)
        keys = [f"{key}{end}" for key in columns for end in ("", "_low", "_high")]
        run.record(**{f"{name}_{key}": number(name, key) for key in keys if key in rows[name]["numbers"]})
        run.record(**{f"{name}_gpu_minutes": minutes})


table(WORDS)

# %% [markdown]
# ## 4. Without its parts
#
# One sample of each ablation for the first two fronts, from behind and from the side.

# %%
parts = ["no_render", "no_features", "no_depth", "no_novel", "dit", "around_two"]
names = [FULL, *parts]
cells = [pair(name)[:2].flatten(0, 1) for name in names]
fig = plotting.image_grid(
    torch.stack(cells, 1), size=1.1, row_labels=["180°", "135°"] * 2,
    col_titles=[WORDS[name].replace("render, ", "render,\n").replace("contexts, ", "contexts,\n") for name in names],
)
run.savefig(fig, "gallery")
plt.show()

# %% [markdown]
# How much larger an ablation's energy score is than the full model's, scene by scene, with intervals over scenes: right of
# zero the part was worth something. Filled, the target's view; open, the novel one. Intervals over scenes do not know that
# another training would have ended elsewhere. So the first line is the full model once more, from another seed: what is no
# farther from zero than that may be chance.

# %% tags=["nbval-ignore-output"]
parts = ["reseeded", *parts[:-1], "around", "around_two"]
fig, axes = plt.subplots(1, 3, figsize=(9.5, 3.4), sharey=True, layout="constrained")
for i, name in enumerate(parts):
    gains = comparisons.against(ours["each"], rows[name]["each"])
    for ax, d in zip(axes, study.DEGREES, strict=True):
        for kind, fill in (("", "full"), ("novel_", "none")):
            gain = gains[f"{kind}energy_{d}"]
            ends = 100 * np.array([[gain.value - gain.low], [gain.high - gain.value]])
            ax.errorbar(100 * gain.value, i + (0.2 if kind else -0.1), xerr=ends, fmt="o", fillstyle=fill, ms=5,
                        color=plotting.MUTED if name == "reseeded" else plotting.TARGET, capsize=2)
            run.record(**gain.named(f"{name}_{kind}gain_{d}"))
for ax, d in zip(axes, study.DEGREES, strict=True):
    ax.axvline(0, color=plotting.TRUE, lw=1, zorder=0)
    ax.set(title=f"{d}°")
fig.supxlabel("energy score, % above the full model's", fontsize="medium")
axes[0].set_yticks(range(len(parts)), [WORDS[name] for name in parts])
axes[0].invert_yaxis()
run.savefig(fig, "parts")
plt.show()

print("all six energy scores together, % above the full model's:")
for name in (*parts, "unconditional"):
    gain = comparisons.against(ours["each"], rows[name]["each"])["energies"]
    print(f"{WORDS[name]:26}{100 * gain.value:6.1f} ({100 * gain.low:.1f} to {100 * gain.high:.1f})")
    run.record(**gain.named(f"{name}_energies_gain"))

# %% [markdown]
# The loop that trained them, for a few steps of one of them.

# %% tags=["nbval-ignore-output"]
arm = "no_depth"
if PROFILE == "gpu":
    Path(FOLDER).mkdir(parents=True, exist_ok=True)
    done = train.train(train.untrained(arm), Path(FOLDER), arm, BATCH, seconds=60 * MINUTES)
else:
    done = fit(train.untrained(arm), tabletop.batches(1, 1, train.PIXELS), steps=STEPS, progress=False)
print(f"{WORDS[arm]}: {done.steps} steps, loss {done.curve['loss'][0]:.2f} to {done.curve['loss'][-1]:.2f}")

# %% [markdown]
# ## 5. One target, or one after another
#
# What neither context nor target sees comes out as a mean. Scenes seen from behind (180°) that were sampled through a
# target at 120° alone, and through one at 120° and then one at 240°. Both by the model that has met two contexts.

# %% tags=["nbval-ignore-output"]
keys = ("energy_skill_180", "sharpness_ratio_180", "spread_skill_180", "hidden_factor_tv", "decal_factor_tv")
print(f"{'':26}" + "".join(f"{columns[key]:>10}" for key in keys))
for name in ("one_shot", "autoregressive"):
    print(f"{WORDS[name]:26}" + "".join(f"{number(name, key):10.3f}" for key in keys))
fig = plotting.image_grid(
    torch.stack([pair("one_shot")[:, 0], pair("autoregressive")[:, 0]]), size=1.3,
    row_labels=["one-shot", "in turn"],
)
run.savefig(fig, "in_turn")
plt.show()
gain = comparisons.against(rows["autoregressive"]["each"], rows["one_shot"]["each"])["energy_180"]
print(f"one-shot has an energy score larger by {100 * gain.value:.0f} % ({100 * gain.low:.0f} to {100 * gain.high:.0f})")
run.record(**gain.named("autoregressive_gain_180"))

# %% [markdown]
# ## 6. Finer pictures
#
# The paper trains at 64 x 64 first and goes on at 128 x 128. So do we, from the weights of `06_inverse_graphics`, and so
# does the deterministic model that skill is told by. No weight is new: rays are asked for at more places. The schedule is
# shifted, since four pixels where there was one average half of the noise away.

# %% tags=["nbval-ignore-output"]
names = ["redrawn_128", "deterministic_128", "unet_128"]
fig = plotting.image_grid(
    torch.cat(list(map(pair, names)), 1), size=1.7,
    col_titles=[f"{WORDS[name.removesuffix('_128')]}, {d}°" for name in names for d in (180, 135)],
)
run.savefig(fig, "finer")
plt.show()
table(names)
coarse = study.recorded()[0][study.sampler("unet")]
for d in study.DEGREES:
    skill = number("unet_128", f"energy_skill_{d}")
    print(f"skill at {d:3}°: {skill:.3f}, before at 64 x 64 {coarse[f'energy_skill_{d}']:.3f}")
    run.record(**{f"unet_128_energy_skill_{d}": skill})

# %% [markdown]
# ## 7. What a sampler's options cost
#
# *Guidance* extrapolates away from the model without context, a *temperature* below 1 shrinks all noise, *thresholding*
# shrinks each predicted picture into its range. All are common, and the released code of the paper samples RealEstate10K
# with a guidance of 2, a temperature of 0.85 and thresholding always, with DDIM (eta 0, as here). None of the three leaves
# the distribution as it was. Each below by itself, thresholding with a guidance of 2, since without guidance no picture
# leaves its range.
#
# The *lean* is how much too often samples hold what is the likeliest in their scene, with its interval over scenes. A
# radiance field cannot be extrapolated, so guidance moves the sampler's own picture (open), and the scene (filled) is what
# the model makes of the last one.

# %% tags=["nbval-ignore-output"]
measures = {
    "spread_skill_180": ("spread over error", 1), "energy_180": ("energy score", None), "lean": ("lean to the likeliest", 0),
}
settings = {"guidance": {"1": "plain"}, "temperature": {"1": "plain"}, "threshold": {"off": "guidance_2"}}
for name in OPTIONS:
    if "_" in name:
        option, value = name.split("_")
        settings[option][value] = name
for option, values in settings.items():
    fig, axes = plt.subplots(1, 3, figsize=(8.5, 2.2), layout="constrained")
    for ax, (key, (words, ideal)) in zip(axes, measures.items(), strict=True):
        for kind, fill in (("", "full"), ("picture_", "none")):
            ends = [[number(name, f"{kind}{key}{end}") for name in values.values()] for end in ("", "_low", "_high")]
            at, low, high = map(np.array, ends)
            if np.isfinite(at).all():
                bars = np.nan_to_num([at - low, high - at])
                ax.errorbar(list(values), at, bars, fmt="o-", fillstyle=fill, capsize=3, color=plotting.SAMPLES)
                run.record(**{f"{option}_{kind}{key}": at})
        if ideal is not None:
            ax.axhline(ideal, color=plotting.TRUE, lw=1)
        ax.set(xlabel=option, title=words)
    run.record(**{f"{option}_values": list(values)})
    run.savefig(fig, option)
    plt.show()

# %% [markdown]
# Samples at each setting: four scenes for one front, from behind, and the sampler's own pictures.

# %% tags=["nbval-ignore-output"]
from ipywidgets import SelectionSlider, interact


def look(which):
    found = torch.from_numpy(pictures[f"row_{which}_pictures"])[0, :, [0, 2]].movedim(-3, -1) / 255  # (samples, 2, H, W, 3)
    cells = torch.cat([front[:1].expand(-1, 2, -1, -1, -1), found]).transpose(0, 1)
    plotting.image_grid(cells, size=1.5, row_labels=["scene", "picture"], col_titles=["front", *["sample"] * 4])
    plt.show()


moving = interact(look, which=SelectionSlider(options=list(OPTIONS)))

# %% [markdown]
# ## What held, and what did not
#
# To be written from the recorded numbers.
#
# **Further reading.** Zhou and Tulsiani (2023), *SparseFusion*, [arXiv 2212.00792](https://arxiv.org/abs/2212.00792). Anciukevičius
# et al. (2023), *RenderDiffusion*, [arXiv 2211.09869](https://arxiv.org/abs/2211.09869). Ho and Salimans (2022),
# *Classifier-free diffusion guidance*, [arXiv 2207.12598](https://arxiv.org/abs/2207.12598). Saharia et al. (2022), *Imagen*,
# [arXiv 2205.11487](https://arxiv.org/abs/2205.11487) (thresholding).

# %%
run.finish()
