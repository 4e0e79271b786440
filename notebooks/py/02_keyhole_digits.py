# %% [markdown]
# # Handwritten digits through a keyhole
#
# All observations of a set of handwritten digits are small windows. Can a model that never gets a complete digit learn
# to sample the complete digits that agree with one window?
#
# **What you will see.** Real handwritten digits of 8x8 pixels. A window shows a few of the pixels, and the model
# samples the rest: many different digits where the window leaves much uncertainty, one where it does not. A
# deterministic model, trained in the same way, predicts a blur. Windows are sampled one after another, and each joins
# the context of the next, until the digit is complete.
#
# **What you need.** The toy proof (`01_toy_proof`) helps but is not required. The model is trained while you watch. The
# digits come with scikit-learn; nothing is downloaded.
#
# **What it rebuilds.** Equations 4 to 9 of *Diffusion with Forward Models* (Tewari et al., NeurIPS 2023,
# [arXiv 2306.11719](https://arxiv.org/abs/2306.11719)) on real data, and the autoregressive sampling of its section
# 4.1. The digits are not in the paper: they are small enough to train on one core, and real enough for an evaluation.

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

# %% tags=["nbval-ignore-output"]
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.patches import Rectangle

from fwdiff_lite import Observations, metrics, plotting
from fwdiff_lite.pipeline.notebook import Run
from fwdiff_lite.experiments import digits as experiment
from fwdiff_lite.experiments import harness
from fwdiff_lite.experiments.measurements import to_flat
from fwdiff_lite.problems import digits

run = Run("02_keyhole_digits", PROFILE)
TRAINING_STEPS = run.pick(smoke=30, cpu=experiment.STEPS, gpu=experiment.STEPS)
NUM_DIGITS = run.pick(smoke=24, cpu=297, gpu=297)  # held-out digits
K = run.pick(smoke=4, cpu=32, gpu=32)  # samples of each
SAMPLING_STEPS = run.pick(smoke=2, cpu=16, gpu=16)  # for every window
run.header()

# %% [markdown]
# ## 1. A digit and its observations
#
# The signal $S$ is a digit of 8x8 pixels between -1 (white) and 1 (ink). An observation is a window of 3x3, 4x4 or 5x5
# pixels; its parameters $\phi$ are its row, its column and its size. The **forward model** crops the window,
#
# $$O = \mathrm{forward}(S, \phi) = \mathbb{1}_\phi \odot S ,$$
#
# where $\mathbb{1}_\phi$ is 1 inside of the window and 0 outside. All windows lie on one 8x8 canvas, so that a sampled
# window can join the context like any other. This map is linear, so every mean of digits is reachable, and the
# bias of a non-linear forward model (the end of `01_toy_proof`) does not occur here.
#
# The first row is for the reader only. The model gets the second: windows of a digit, drawn anew at every
# training step. 297 digits are held out, and no window of them is used for training.

# %%
data = digits.load_digit_splits()
forward_model = digits.CropOperator()


def to_rgb(image, support=None):
    """Dark ink on white, as RGB; pixels outside of the support are blue."""
    rgb = (0.5 - 0.5 * torch.as_tensor(image).float())[..., None].repeat(*[1] * image.ndim, 3).clamp(0, 1)
    hidden_color = torch.tensor([0.78, 0.86, 0.93])
    return rgb if support is None else torch.where(torch.as_tensor(support)[..., None] > 0, rgb, hidden_color)


def draw_window(ax, window, color=plotting.CONTEXT):
    row, col, size = window.tolist()
    ax.add_patch(Rectangle((col - 0.5, row - 0.5), size, size, fill=False, ec=color, lw=2, clip_on=False))


def show_grid(rows, **options):
    fig = plotting.image_grid(torch.stack([torch.stack(list(row)) for row in rows]), **options)
    for ax in fig.axes:
        ax.spines[:].set(visible=bool(ax.images), color=plotting.MUTED)
    return fig


examples = data.train[[0, 2, 4, 7, 8, 11, 13, 15]]
windows = digits.sample_windows(8, 3, torch.Generator().manual_seed(3))
observed = to_rgb(*digits.composite_context(digits.observe(examples, windows)))
fig = show_grid([to_rgb(examples), observed], row_labels=["signal", "observed"])
for i in range(8):
    for j, color in enumerate((plotting.CONTEXT, plotting.TARGET, plotting.CONTROL)):
        for row in (0, 1):
            draw_window(fig.axes[row * 8 + i], windows[i, j], color)
run.savefig(fig, "windows")
plt.show()

# %% [markdown]
# Vermilion could be the context, green the target, amber the novel window of one training step.
#
# ## 2. The denoiser: a Gaussian posterior for every pixel, and a network for the remainder
#
# Eq. 4 is a network whose input is the context windows, composited on one canvas, and a noisy target window:
#
# $$S = \mathrm{denoise}(O^{ctxt}, O^{trgt}_t; t, \phi^{ctxt}, \phi^{trgt}). \tag{4}$$
#
# It starts from a simple estimate. Take every pixel as an independent Gaussian: with mean $m$ and variance $v$ over the
# training windows, or, where the context covers the pixel, with mean equal to its value and standard deviation $\tau =
# 0.1$ (`context_noise_std`). Bayes' rule, with the noisy target as a measurement, gives the posterior mean $g$ and the
# posterior standard deviation $s$,
#
# $$g = m + \frac{\alpha v}{\alpha^2 v + \sigma^2}\,(O^{trgt}_t - \alpha m), \qquad
#   s^2 = \frac{\sigma^2 v}{\alpha^2 v + \sigma^2}, \qquad S = \mathrm{clamp}(g + s \odot \mathrm{network}, -1, 1).$$
#
# The network predicts the remainder, which comes from the correlations between pixels. Two limitations should be
# stated. First, pixels that the context covers start from their values: the network can change them, by about $\tau$,
# and has to learn not to. So consistency with the context is partly built in; section 8 shows the result without it.
# Second, the clamp uses that ink has bounds. Means of pixels lie within them, so every mean stays reachable.

# %%
variant = experiment.EXPERIMENT.variant("full")
model = variant.build_model()  # digits.build_model(data.train)
num_weights = sum(w.numel() for w in model.denoiser.parameters())
print(f"{num_weights / 1e6:.2f} million weights; pixels' mean and standard deviation over training windows:")
images = [to_rgb(model.denoiser.mean), to_rgb(2 * model.denoiser.variance.sqrt() - 1)]
fig = show_grid([images], col_titles=["mean", "std"])
plt.show()

# %% [markdown]
# ## 3. Training on windows alone
#
# Each step takes 256 digits and, of each, 0 to 7 windows as the context, one as the target and two novel ones. With
# contexts of every size, the training covers every context of autoregressive sampling. The losses are
#
# $$L^{trgt} = \| O^{trgt} - \mathrm{forward}(S, \phi^{trgt}) \|^2, \tag{8}$$
# $$L^{novel} = \| O^{novel} - \mathrm{forward}(S, \phi^{novel}) \|^2. \tag{9}$$

# %% tags=["nbval-ignore-output"]
log = variant.train_in_memory(model, TRAINING_STEPS)  # fit(model, digits.batches(data.train), ...)
curve = {name: np.array(x) for name, x in log.curve.items()}
tail = max(1, TRAINING_STEPS // 20)
for name in ("target", "novel"):
    print(f"{name} loss: {curve[name][:5].mean():.2g} at first, {curve[name][-tail:].mean():.2g} at the end")

# %% [markdown]
# ## 4. One window, many digits
#
# Now the held-out digits. The context is one window. We start from noise in a target window and iterate Eq. 4, 5 and 6;
# then the sampled window joins the context, and the next is sampled. Four windows of 5x5 in the corners cover the
# canvas, in random order.
#
# A row is a held-out digit: the truth, its context window, six samples, the standard deviation over all samples (dark:
# large), their mean, and the prediction of a deterministic model, which regresses through the same forward model with
# the same network, losses, data and steps. Its predictions for these windows are recorded; below, a few steps
# of its training run live.

# %%
results = harness.load_results(experiment.EXPERIMENT)
recorded = results.arrays
test_windows = digits.make_test_windows(data.held_out)  # four for each held-out digit; the first is the context
assert (test_windows.params.numpy() == recorded["windows"]).all()
context = test_windows.select([0])[:NUM_DIGITS]
truth, labels = data.held_out[:NUM_DIGITS], data.held_out_labels[:NUM_DIGITS]
deterministic = {num_windows: torch.from_numpy(recorded[f"baseline_{num_windows}"]).float() for num_windows in range(5)}

samples = digits.sample_posterior(model, context, K, steps=SAMPLING_STEPS)
one_shot = digits.sample_posterior(model, context, K, num_windows=1, steps=SAMPLING_STEPS, seed=1)

# %% tags=["nbval-ignore-output"]
examples = [0, 1, 2, 5, 8, 10, 12]
context_image, context_support = digits.composite_context(context)


def show_samples(samples, indices):
    rows = [
        [to_rgb(truth[i]), to_rgb(context_image[i], context_support[i]), *(to_rgb(x) for x in samples[i, : min(6, K)]),
         to_rgb(2 * samples[i].std(0) - 1), to_rgb(samples[i].mean(0)), to_rgb(deterministic[1][i])]
        for i in indices
    ]
    titles = ["truth", "context", *["sample"] * min(6, K), "std", "mean", "determ."]
    fig = show_grid(rows, col_titles=titles, size=0.85)
    for row, i in enumerate(indices):
        for col in range(1, 2 + min(6, K)):
            draw_window(fig.axes[row * len(titles) + col], context.params[i, 0])
    return fig


fig = show_samples(samples, examples)
run.savefig(fig, "samples")
plt.show()

# %% [markdown]
# ## 5. Autoregressive sampling, window by window
#
# Pixels outside of context and target cannot be sampled together with the target. At the end of sampling the target is
# clean, so $S$ is a function of context and target alone, and its other pixels are a conditional mean: the first
# columns are sharp inside of the windows so far and grey outside. The next target samples pixels that were a mean
# before. Each pair of rows is one sample for the same context: its windows, as they are sampled, and below them the
# signal.

# %% tags=["nbval-ignore-output"]


def sample_window_by_window(i, k, seed):
    """k samples for one context: after each sampled window the context so far and the signal, and the windows."""
    generator = torch.Generator().manual_seed(seed)
    params_sequence = digits.corner_windows(1, generator).expand(k, 4, 3)
    context_so_far = context[i].repeat(k)
    stages = [(context_so_far, None)]
    for params in params_sequence.split(1, 1):
        step = model.sample(context_so_far, params, steps=SAMPLING_STEPS, generator=generator)
        context_so_far = context_so_far.append(Observations(step.observation, params))
        stages.append((context_so_far, step.signal))
    return stages, params_sequence[0]


example = 5
stages, params_sequence = sample_window_by_window(example, 3, seed=4)
rows = []
for j in range(3):
    composites = [to_rgb(*(x[j] for x in digits.composite_context(observations))) for observations, _ in stages]
    rows.append([*composites, to_rgb(truth[example])])
    blank = torch.full((8, 8, 3), float("nan"))
    rows.append([blank, *(to_rgb(signal[j]) for _, signal in stages[1:]), blank])
fig = show_grid(rows, row_labels=["windows", "signal"] * 3, size=0.85,
                col_titles=["context", *(f"+ {k} sampled" for k in range(1, 5)), "truth"])
for j in range(3):
    draw_window(fig.axes[12 * j], context.params[example, 0])
    for k, window in enumerate(params_sequence):
        draw_window(fig.axes[12 * j + k + 1], window, plotting.TARGET)
run.savefig(fig, "opening")
plt.show()

# %% [markdown]
# The same as an animation: five contexts, three samples each.

# %% tags=["nbval-ignore-output"]
sequences = [(i, sample_window_by_window(i, 3, seed=i)[0]) for i in examples[:5]]
frames = []
for k in range(5):
    rows = [
        [to_rgb(*(x[0] for x in digits.composite_context(stages[0][0]))),
         *(to_rgb(*(x[j] for x in digits.composite_context(stages[k][0]))) for j in range(3)), to_rgb(truth[i])]
        for i, stages in sequences
    ]
    fig = show_grid(rows, col_titles=["context", "sample", "sample", "sample", "truth"], size=0.8)
    for row, (i, _) in enumerate(sequences):
        for col in range(4):
            draw_window(fig.axes[5 * row + col], context.params[i, 0])
    frame = plotting.figure_to_rgb(fig)
    plt.close(fig)
    frames += [frame] * (6 if k == 4 else 2)
run.save_gif(frames, "opening", fps=2)

# %% [markdown]
# ## 6. Is it right?
#
# The true posterior for a context is not known, but each context has one true digit. Four measures, with 95%
# intervals by bootstrap over the held-out digits:
#
# - **Energy score** of complete digits, a proper score: no sampler has a better expected score than the true posterior.
#   Samples over the deterministic model: about 0.71 for exact samples over the exact mean if the posterior is Gaussian.
#   The same for autoregressive against one-shot sampling.
# - **Spread over skill** on the pixels outside of the context: the samples' standard deviation over the error
#   of their mean. 1 is calibrated; less is over-confident. One-shot samples are conditional means outside of their two
#   windows, so theirs is low in theory, too: the autoregressive number is the relevant one.
# - **Consistency**: how well samples agree with the context, as PSNR in dB.
# - **Negative controls**, which must fail: samples of shuffled contexts, and samples moved halfway to their mean.

# %% tags=["nbval-ignore-output"]
samples_by_name = {
    "autoregressive": samples,
    "one-shot": one_shot,
    "control: shuffled contexts": samples.roll(1, 0),
    "control: half the spread": (samples + samples.mean(1, keepdim=True)) / 2,
}
hidden_mask = context_support == 0  # pixels outside of the context
bootstrap_generator = torch.Generator().manual_seed(0)
energy = {name: metrics.energy_score(x, truth) for name, x in samples_by_name.items()}
energy["deterministic"] = metrics.euclidean_error(deterministic[1][:NUM_DIGITS], truth)
energy["mean of the samples"] = metrics.euclidean_error(samples.mean(1), truth)
spread_skill = {
    name: metrics.spread_skill(x, truth, bootstrap_generator, hidden_mask) for name, x in samples_by_name.items()
}
context_error = {name: digits.context_squared_error(x, truth, context) for name, x in samples_by_name.items()}

energy_ratio, shuffled_energy_ratio = (
    metrics.energy_ratio(energy[name], energy["deterministic"], bootstrap_generator)
    for name in ("autoregressive", "control: shuffled contexts")
)
autoregressive_gain = metrics.bootstrap(
    torch.mean, energy["one-shot"] - energy["autoregressive"], generator=bootstrap_generator
)
psnr = metrics.bootstrap(
    digits.psnr_from_squared_error, context_error["autoregressive"], generator=bootstrap_generator
)


def print_interval(label, interval, decimals=2):
    print(f"{label:46}" + "{:.{d}f}  [{:.{d}f}, {:.{d}f}]".format(*interval, d=decimals))


print_interval("energy score, samples / deterministic", energy_ratio)
print_interval("energy score, one-shot less autoregressive", autoregressive_gain, 3)
print_interval("consistency with the context (dB)", psnr, 1)
for name, interval in spread_skill.items():
    print_interval(f"spread / skill, {name}", interval)
print("\nenergy score: " + ", ".join(f"{name} {x.mean():.2f}" for name, x in energy.items()))
psnr_by_name = {name: digits.psnr_from_squared_error(x) for name, x in context_error.items()}
print("consistency (dB): " + ", ".join(f"{name} {x:.0f}" for name, x in psnr_by_name.items()))


def record_interval(name, interval):
    run.record(**{name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high})


record_interval("energy_ratio", energy_ratio)
record_interval("energy_ratio_shuffled", shuffled_energy_ratio)
record_interval("autoregressive_gain", autoregressive_gain)
record_interval("spread_skill", spread_skill["autoregressive"])
record_interval("spread_skill_one_shot", spread_skill["one-shot"])
record_interval("spread_skill_half", spread_skill["control: half the spread"])
record_interval("window_consistency_psnr", psnr)

# %% [markdown]
# Left: each dot is a held-out digit; below the diagonal, the samples score better than the deterministic prediction.
# Right: pixels outside of the context, grouped by the standard deviation of the samples, against the error of their
# mean. On the diagonal the spread equals the error.

# %% tags=["nbval-ignore-output"]
fig, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3.8))
left.scatter(energy["deterministic"], energy["autoregressive"], s=10, color=plotting.SAMPLES, alpha=0.6, lw=0)
limit = float(energy["deterministic"].max()) * 1.05
left.plot([0, limit], [0, limit], color=plotting.MUTED, lw=1)
better = (energy["autoregressive"] < energy["deterministic"]).float().mean()
left.set(xlabel="energy score, deterministic", ylabel="energy score, samples", xlim=(0, limit), ylim=(0, limit),
         aspect="equal", title=f"samples better for {better:.0%} of {NUM_DIGITS} digits")
for name, color in (("autoregressive", plotting.SAMPLES), ("one-shot", plotting.CONTROL)):
    variance = (samples_by_name[name].var(1) * (K + 1) / K)[hidden_mask]
    squared_error = (samples_by_name[name].mean(1) - truth).square()[hidden_mask]
    groups = variance.argsort().tensor_split(10)
    spreads, errors = ([x[g].mean().sqrt() for g in groups] for x in (variance, squared_error))
    right.plot(spreads, errors, "o-", ms=4, color=color, label=name)
right.plot([0, 1], [0, 1], color=plotting.MUTED, lw=1)
right.set(xlabel="spread of the samples", ylabel="error of their mean", xlim=(0, 1), ylim=(0, 1), aspect="equal",
          title="pixels outside of the context")
right.legend(loc="lower right")
run.savefig(fig, "scores")
plt.show()

# %% [markdown]
# ## 7. Which digit is it?
#
# A classifier trained on complete training digits labels the samples. It is no part of the model. Its label
# probabilities, averaged over all samples of one context, are a distribution over labels. Two measures compare it with
# the true label: the log-loss (ln 10 = 2.30 for a uniform distribution) and the calibration error. The classifier is
# also applied to the blurred digit of the deterministic model, and here the choice of the classifier matters: the
# default one is confident, blurred digit or not; a softer one, trained with a stronger weight decay, is worse on real
# digits and less confident on a blur. The log-losses of both are printed.

# %% tags=["nbval-ignore-output"]
classifier = digits.train_classifier(data)
accuracy = (classifier(data.held_out).argmax(-1) == data.held_out_labels).float().mean()
label_frequencies = torch.bincount(data.train_labels, minlength=10) / len(data.train_labels)
probabilities = {
    "samples": digits.smoothed_label_distribution(classifier(samples)),
    "one-shot": digits.smoothed_label_distribution(classifier(one_shot)),
    "deterministic": classifier(deterministic[1][:NUM_DIGITS]),
    "label frequencies": label_frequencies.expand(NUM_DIGITS, 10),
}
log_loss = {name: metrics.log_loss(p, labels) for name, p in probabilities.items()}
calibration_error = {name: metrics.calibration_error(p, labels) for name, p in probabilities.items()}
sampled_labels = [
    torch.multinomial(probabilities["samples"], 1, generator=bootstrap_generator)[:, 0] for _ in range(200)
]
calibrated_errors = [metrics.calibration_error(probabilities["samples"], x) for x in sampled_labels]
calibrated_limit = float(np.quantile(calibrated_errors, 0.95))
log_loss_gain = metrics.bootstrap(
    torch.mean, log_loss["deterministic"] - log_loss["samples"], generator=bootstrap_generator
)

print(f"the classifier is right for {accuracy:.1%} of complete held-out digits")
for name in probabilities:
    print(f"{name:18} log-loss {log_loss[name].mean():.2f}   calibration error {calibration_error[name]:.3f}")
print_interval("log-loss, deterministic less samples", log_loss_gain)
print(f"calibrated probabilities have a calibration error below {calibrated_limit:.3f} in 95% of cases")
soft_classifier = digits.train_classifier(data, weight_decay=1.0)
soft_probabilities = (
    soft_classifier(truth),
    digits.smoothed_label_distribution(soft_classifier(samples)),
    soft_classifier(deterministic[1][:NUM_DIGITS]),
)
soft_real, soft_samples, soft_deterministic = (float(metrics.log_loss(p, labels).mean()) for p in soft_probabilities)
real = float(metrics.log_loss(classifier(truth), labels).mean())
print(f"log-loss on complete real digits {real:.2f}; of a softer classifier {soft_real:.2f}, "
      f"on samples {soft_samples:.2f} and on deterministic predictions {soft_deterministic:.2f}")
record_interval("label_logloss_gain", log_loss_gain)
run.record(
    label_logloss=log_loss["samples"].mean(), label_logloss_one_shot=log_loss["one-shot"].mean(),
    label_logloss_deterministic=log_loss["deterministic"].mean(),
    label_logloss_marginal=log_loss["label frequencies"].mean(),
    label_calibration_error=calibration_error["samples"],
    label_calibration_error_deterministic=calibration_error["deterministic"],
    label_calibration_floor=calibrated_limit, classifier_accuracy=accuracy, classifier_logloss=real,
    soft_classifier_logloss=soft_real, label_logloss_soft=soft_samples,
    label_logloss_soft_deterministic=soft_deterministic,
)

# %% [markdown]
# More windows leave less uncertainty. From no window at all (unconditional samples) to four, the entropy of the sampled
# labels falls, and the log-loss falls with it. Where both are equal, the samples' confidence is right; an entropy above
# the log-loss means under-confidence, one below it over-confidence, as with no window at all.

# %% tags=["nbval-ignore-output"]
NUM_CURVE_DIGITS = run.pick(smoke=8, cpu=80, gpu=297)
counts = range(5)


def contexts_of(num_windows, indices):
    """The first num_windows test windows of some held-out digits, as contexts."""
    windows = test_windows[indices]
    return windows.mask_out(torch.arange(4)[None].expand(len(windows), 4) >= num_windows)


samples_by_count = {}
for count in counts:
    contexts = contexts_of(count, slice(0, NUM_CURVE_DIGITS))
    samples_by_count[count] = digits.sample_posterior(model, contexts, K, steps=SAMPLING_STEPS, seed=2)
entropy, log_losses, deterministic_log_losses = [], [], []
curve_labels = labels[:NUM_CURVE_DIGITS]
for count in counts:
    distribution = digits.smoothed_label_distribution(classifier(samples_by_count[count]))
    entropy.append(float(metrics.label_entropy(distribution).mean()))
    log_losses.append(float(metrics.log_loss(distribution, curve_labels).mean()))
    deterministic_probabilities = classifier(deterministic[count][:NUM_CURVE_DIGITS])
    deterministic_log_losses.append(float(metrics.log_loss(deterministic_probabilities, curve_labels).mean()))
print("windows        " + "".join(f"{count:7}" for count in counts))
print("entropy        " + "".join(f"{x:7.2f}" for x in entropy))
print("log-loss       " + "".join(f"{x:7.2f}" for x in log_losses))
print("deterministic  " + "".join(f"{x:7.2f}" for x in deterministic_log_losses))
run.record(label_entropy=entropy, label_logloss_by_windows=log_losses)
run.record(label_logloss_by_windows_deterministic=deterministic_log_losses)

# %% tags=["nbval-ignore-output"]
fig = plt.figure(figsize=(10, 6.2))
top, bottom = fig.subfigures(2, 1, height_ratios=[1.25, 1])
axes = top.subplots(3, 5, height_ratios=[1, 1, 1])
example = 5
for count, column in zip(counts, axes.T, strict=True):
    image, support = (x[0] for x in digits.composite_context(contexts_of(count, slice(example, example + 1))))
    column[0].imshow(to_rgb(image, support))
    column[0].set_title(f"{count} window{'s' * (count != 1)}", loc="center")
    example_samples = samples_by_count[count][example]
    padded = [torch.nn.functional.pad(x, (1, 1), value=-1) for x in example_samples[:3]]
    column[1].imshow(to_rgb(torch.cat(padded, 1)))
    distribution = digits.smoothed_label_distribution(classifier(example_samples[None]))[0]
    colors = [plotting.TARGET if label == labels[example] else plotting.SAMPLES for label in range(10)]
    column[2].bar(range(10), distribution, color=colors)
    column[2].set(ylim=(0, 1), xticks=range(10), yticks=[0, 1])
    for ax in column[:2]:
        ax.set(xticks=[], yticks=[])
        ax.grid(False)
        ax.spines[:].set(visible=True, color=plotting.MUTED)
axes[2, 0].set_ylabel("mean probability")
left, right = bottom.subplots(1, 2)
left.plot(counts, entropy, "o-", color=plotting.SAMPLES, label="entropy of sampled labels")
left.plot(counts, log_losses, "s-", color=plotting.TRUE, label="log-loss of sampled labels")
left.plot(counts, deterministic_log_losses, "^-", color=plotting.BASELINE, label="log-loss, deterministic")
left.set(xlabel="windows in the context", ylabel="nats", xticks=list(counts), ylim=(0, None))
left.legend()
right.plot([0, 1], [0, 1], color=plotting.MUTED, lw=1)
for name, marker, color in (("samples", "o-", plotting.SAMPLES), ("deterministic", "^-", plotting.BASELINE)):
    confidence, predicted_label = probabilities[name].max(1)
    correct = (predicted_label == labels).float()
    groups = confidence.argsort().tensor_split(6)  # equally many contexts in each
    confidences, accuracies = ([x[g].mean() for g in groups] for x in (confidence, correct))
    right.plot(confidences, accuracies, marker, color=color, label=name)
right.set(xlabel="probability of the likeliest label", ylabel="accuracy", xlim=(0, 1.02), ylim=(0, 1.02),
          title="one window")
right.legend()
run.savefig(fig, "labels")
plt.show()

# %% [markdown]
# Above: one digit, its windows, three samples and the labels of all samples (green is the true one). Below, left: means
# over many digits. Right: calibration for one window.
#
# ## 8. Remedies against over-confidence
#
# With some 1,500 digits a model easily becomes over-confident. This sweep was recorded (`python -m
# fwdiff_lite.experiments digits`, one thread): each variant is trained for fewer steps than the model above, on 1,200
# of the training digits, and is evaluated on the other 300. The held-out digits are not used.

# %% tags=["nbval-ignore-output"]
numbers = to_flat(results.rows)
sweep = {label: numbers[name] for label, name in experiment.SWEEP_VARIANTS.items()}
print(f"{'':20} energy  one-shot  spread/skill  one-shot  consistency")
for label, row in sweep.items():
    print(f"{label:20} {row['energy']:6.2f} {row['energy_one_shot']:9.2f} {row['spread_skill']:13.2f} "
          f"{row['spread_skill_one_shot']:9.2f} {row['psnr']:9.0f} dB")
fig, axes = plt.subplots(1, 3, figsize=(9.5, 3.4), sharey=True)
positions = np.arange(len(sweep))[::-1]
panels = (("energy score", "energy", None), ("spread / skill", "spread_skill", 1.0), ("consistency (dB)", "psnr", 25.0))
for ax, (title, column, reference) in zip(axes, panels, strict=True):
    ax.plot([row[column] for row in sweep.values()], positions, "o", color=plotting.SAMPLES, label="autoregressive")
    if column != "psnr":
        one_shot_values = [row[f"{column}_one_shot"] for row in sweep.values()]
        ax.plot(one_shot_values, positions, "o", mfc="none", color=plotting.CONTROL, label="one-shot")
    if reference:
        ax.axvline(reference, color=plotting.MUTED, lw=1)
    ax.set(title=title, yticks=positions, yticklabels=list(sweep))
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
run.savefig(fig, "sweep")
plt.show()
run.record(sweep_name=list(sweep))
run.record(**{f"sweep_{column}": [row[column] for row in sweep.values()] for _, column, _ in panels})

# %% [markdown]
# Structure helped more than regularisation. The network alone is over-confident and does not keep the values of the
# context. The Gaussian posterior of section 2 corrects both: the remainder that the network has to learn has the same
# size at every time. Without the bounds on ink the spread is too wide, and autoregressive sampling loses its advantage.
# Without the context in the Gaussian posterior (*context learnt*) the model keeps most of its spread, but agrees poorly
# with the context: by itself the network reaches 18 to 22 dB here, and the rest is built in. Dropout and weight decay
# change little at this length of training. Shifted digits and dimmed ink score worse: the digits of this data set were
# centred and scaled with care, and augmented ones have another distribution. Each variant is one seed: small
# differences are not significant. Vertical lines: a calibrated spread (1), and the 25 dB that we required.
#
# The baseline's training, live for a few steps: the same calls as for the model, with the baseline's variant.

# %% tags=["nbval-ignore-output"]
baseline_variant = experiment.EXPERIMENT.variant("deterministic")  # its model class is ForwardRegression
baseline = baseline_variant.build_model()
baseline_steps = run.pick(smoke=20, cpu=150, gpu=experiment.STEPS)
log = baseline_variant.train_in_memory(baseline, baseline_steps)
baseline_curve = log.curve["loss"]
initial_loss, final_loss = np.mean(baseline_curve[:5]), np.mean(baseline_curve[-5:])
print(f"loss {initial_loss:.2g} at first, {final_loss:.2g} after {baseline_steps} steps")
predictions = (digits.predict_deterministic(baseline, context), deterministic[1][:NUM_DIGITS])
live_error, recorded_error = ((x - truth).square().mean().sqrt() for x in predictions)
print(f"error {live_error:.2f} after {baseline_steps} steps, {recorded_error:.2f} recorded")

# %% [markdown]
# ## 9. Interactive
#
# Choose a digit, and the position and the size of its window. The samples are drawn as you move it. For readers without
# a kernel the figure below shows the same digit with four windows.

# %% tags=["nbval-ignore-output"]


def sample_one_window(i, row, col, size):
    """Images of held-out digit i for one window (context, six samples, their mean, truth), and the window."""
    window = torch.tensor([[[min(row, 8 - size), min(col, 8 - size), size]]], dtype=torch.float32)
    context = digits.observe(data.held_out[i : i + 1], window)
    samples = digits.sample_posterior(model, context, max(K, 6), steps=SAMPLING_STEPS)[0]
    image, support = (x[0] for x in digits.composite_context(context))
    images = [to_rgb(image, support), *map(to_rgb, samples[:6]), to_rgb(samples.mean(0)), to_rgb(data.held_out[i])]
    return images, window[0, 0]


def show_windows(*choices):
    rows, windows = zip(*(sample_one_window(*choice) for choice in choices), strict=True)
    fig = show_grid(rows, col_titles=["context", *["sample"] * 6, "mean", "truth"], size=0.95)
    for row, window in enumerate(windows):
        for col in range(8):
            draw_window(fig.axes[9 * row + col], window)
    return fig


fig = show_windows((5, 0, 2, 3), (5, 3, 3, 3), (5, 0, 2, 5), (5, 3, 1, 5))
run.savefig(fig, "moved")
plt.show()

# %% tags=["nbval-ignore-output"]
from ipywidgets import IntSlider, interact


def show_window(digit, row, column, size):
    show_windows((digit, row, column, size))
    plt.show()


widget = interact(show_window, digit=IntSlider(5, min=0, max=296), row=IntSlider(2, min=0, max=5),
                  column=IntSlider(2, min=0, max=5), size=IntSlider(4, min=3, max=5))

# %% [markdown]
# ## What held, and what did not
#
# **Held.** No complete digit was used for training, and most samples look like complete digits. They score clearly
# better than the deterministic prediction, though neither is exact; their spread is close to their error; they agree
# with the context. Autoregressive sampling resolves the pixels that one-shot sampling leaves as a mean, with a better
# score, and the negative controls fail as they should. A classifier that is accurate on real digits has a smaller
# log-loss on the samples than on the blur, but the interval of the difference, in section 7, includes zero: a hint and
# no more.
#
# **Did not, quite.** That last gain depends on the classifier: a softer one is less confident on the blur, and its
# log-loss there is no larger than on the samples. With two windows and more little uncertainty is left, and the
# deterministic prediction has the smaller log-loss: the samples are under-confident, for some of them are no clear
# digit. One-shot samples have about the same log-loss as autoregressive ones. And consistency is partly built in, as
# section 2 says; the network by itself is less consistent. The design of section 2 was chosen while looking at some of
# the held-out digits; the sweep, which does not use them, does not contradict it. The classifier was chosen by its
# log-loss on real training digits, but not before a softer one had been tried.
#
# **Not claimed.** Proposition 1 assumes infinitely many observations. There are 1,500 training digits, and each
# was observed through many windows; a data set with one or two windows of each digit would be harder.
#
# ## On your own
#
# 1. Put the corner windows in a fixed order, or replace them by sixteen windows of 3x3. Does the energy score change?
#    Should it, for a perfect model?
# 2. Train with exactly one window in the context. What happens in autoregressive sampling?
# 3. Replace the forward model: sums of rows and columns, as of a scanner, instead of windows.
#
# <details><summary>Answers</summary>
#
# 1. For an exact model no sequence that covers the canvas is better than another: each samples the same distribution,
#    factored in another order. A trained model makes small errors at every window, and more windows add them up.
# 2. It gets contexts of a kind that was not in its training, the union of several windows, and its samples get worse
#    from window to window. Compare spread and consistency after one and after four windows.
# 3. Write a class with `__call__(signal, params, pixel_indices=None)` that gives the sum of a row or a column, chosen
#    by `params`, without `support`. The denoiser's Gaussian posterior no longer applies pixel by pixel: start with the
#    network alone.
#
# </details>
#
# **Further reading.** The paper, [arXiv 2306.11719](https://arxiv.org/abs/2306.11719). The digits: Alpaydin and Kaynak
# (1998), *Optical recognition of handwritten digits*, UCI Machine Learning Repository. Gneiting and Raftery (2007),
# *Strictly proper scoring rules, prediction, and estimation*, on the energy score. Karras et al., [arXiv
# 2206.00364](https://arxiv.org/abs/2206.00364), on preconditioning a denoising network, as section 2 does. Guo et al.,
# [arXiv 1706.04599](https://arxiv.org/abs/1706.04599), on calibration. Next: `03_motion_warping`.

# %%
run.claim(
    "Real handwritten digits, never seen whole, sampled from one window: {energy_ratio:.2f} of the "
    "deterministic baseline's energy score on whole held-out digits, in agreement with the window to "
    "{window_consistency_psnr:.0f} dB, spread over error {spread_skill:.2f} (1 is calibrated).",
    thumbnail="samples.png",
)
run.must_show(
    energy_ratio=(0.0, 0.82),
    spread_skill=(0.65, None),
    window_consistency_psnr=(25.0, None),
    label_logloss=None,
)
run.finish()
