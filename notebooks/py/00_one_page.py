# %% [markdown]
# # The whole method on one page
#
# A camera records images of scenes, never scenes. A scanner records projections of bodies, never bodies. Can a
# diffusion model learn to sample a signal that no training example ever shows?
#
# **What you will see.** There is a hidden distribution of points in the plane. The network never gets a point.
# It gets pairs only: a direction, and the projection of a point on this direction, which is one number. It learns
# to sample: given one such pair, it draws points that have this projection. All its samples together have the
# hidden distribution.
#
# **What you need.** Python, `torch` and `matplotlib`, and `ipywidgets` for the slider at the end. The method
# takes nothing from this repository, and nothing is downloaded. The network trains while you watch, on one
# CPU core. The measured run time stands in the table of the
# [README](https://github.com/fwdiff-lite/fwdiff-lite#readme).
#
# [![JupyterLab](https://img.shields.io/badge/open-JupyterLab-f37726)](http://localhost:8888/lab/tree/notebooks/00_one_page.ipynb)
# [![Binder](https://img.shields.io/badge/launch-Binder-579aca)](https://mybinder.org/v2/gh/fwdiff-lite/fwdiff-lite/HEAD?urlpath=lab/tree/notebooks/00_one_page.ipynb)
# [![Colab](https://img.shields.io/badge/open_in-Colab-f9ab00)](https://colab.research.google.com/github/fwdiff-lite/fwdiff-lite/blob/main/notebooks/00_one_page.ipynb)
#
# **What it rebuilds.** Equations 4, 5, 6, 8 and 9 of *Diffusion with Forward Models* (Tewari et al., NeurIPS
# 2023, [arXiv 2306.11719](https://arxiv.org/abs/2306.11719)). They are marked in the code. All other code
# draws figures.

# %% tags=["parameters"]
PROFILE = "cpu"
SEED = 0

# %% tags=["setup"]
import matplotlib.pyplot as plt
import torch

# Training steps and points in the figures. PROFILE "smoke" takes seconds and is for tests. "gpu" equals "cpu", since
# a network as small as this one is no faster on a GPU.
STEPS, NUM_POINTS = {"smoke": (50, 2_000), "cpu": (6_000, 20_000), "gpu": (6_000, 20_000)}[PROFILE]
HIDDEN, SAMPLES, CONTEXT, TARGET, NOVEL, MEAN = "#4a4a4a", "#0072b2", "#d55e00", "#009e73", "#e69f00", "#cc79a7"
torch.manual_seed(SEED)
plt.rcParams.update({"figure.constrained_layout.use": True, "axes.titlesize": 10, "axes.titlelocation": "left"})

# %% [markdown]
# ## 1. Signals and observations
#
# A signal $S$ is a point in the plane, drawn from an unknown distribution. An observation is one number, the projection
# of $S$ on a direction $\phi$. This is the **forward model**:
#
# $$O = \mathrm{forward}(S, \phi) = S_x \cos\phi + S_y \sin\phi .$$
#
# Each training example is three observations of the same point: a *context*, a *target* and a *novel*
# observation. The point itself is known in the function `observe` only.

# %% tags=["idea"]
def sample_signals(n):
    # Four arcs: fraction of the points, centre (x, y), radii (x, y), first and last angle in multiples of pi.
    arcs = torch.tensor([[0.50, 0, 0, 1.7, 1.7, 0, 2], [0.24, 0, 0, 1.05, 1.05, 1.15, 1.85],
                         [0.12, -0.65, 0.55, 0.08, 0.08, 0, 2], [0.14, 0.65, 0.45, 0.4, 0.25, 0.1, 0.9]])
    arc = arcs[torch.multinomial(arcs[:, 0], n, replacement=True)]
    angle = torch.pi * torch.lerp(arc[:, 5], arc[:, 6], torch.rand(n))
    return arc[:, 1:3] + arc[:, 3:5] * direction(angle) + 0.05 * torch.randn(n, 2)


def direction(phi):
    return torch.stack([phi.cos(), phi.sin()], -1)


def forward(S, phi):
    return (S * direction(phi)).sum(-1)


def observe(n):
    phi = torch.pi * torch.rand(3, n)
    return forward(sample_signals(n), phi), phi  # values (3, n) and their directions (3, n)


# %% [markdown]
# Left: the hidden points, which draw a winking face, with one point and three directions in which it is observed.
# Right: the observations, which are the only input of the training. The three observations of one point lie on one sine
# curve.

# %% tags=["drawing", "nbval-ignore-output"]
def format_plane(ax, title=None):
    ax.set(xlim=(-2.1, 2.1), ylim=(-2.1, 2.1), xticks=[], yticks=[], aspect="equal", frame_on=False, title=title)


S, phi, grid = torch.tensor([0.98, 0.55]), torch.tensor([2.3, 1.25, 0.2]), torch.linspace(0, torch.pi, 200)
values, all_values, all_phi = forward(S, phi), *(part.flatten() for part in observe(4000))
data_figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), width_ratios=[1, 1.35])
format_plane(left, "hidden: signals, one of them marked")
left.scatter(*sample_signals(6000).T, s=3, color=HIDDEN, alpha=0.2, lw=0)
right.scatter(all_phi, all_values, s=3, color=HIDDEN, alpha=0.2, lw=0)
right.plot(grid, forward(S, grid), color="black", lw=1)
right.set(title="observed: values and their directions", xlabel=r"direction $\phi$ (radians)", ylabel="observation $O$")
for o, p, color, name in zip(values, phi, (CONTEXT, TARGET, NOVEL), ("context", "target", "novel"), strict=True):
    left.plot(*torch.stack([0 * S, o * direction(p)]).T, color=color, lw=4, solid_capstyle="round")
    left.plot(*torch.stack([o * direction(p), S]).T, ":o", color=color, markevery=[1], mec="black", mfc="black")
    right.plot(p, o, "o", color=color, ms=10, mec="white")
    right.text(p + 0.02, o + 0.15, name, color=color, weight="bold")

# %% [markdown]
# ## 2. The network: from a noisy observation to a signal
#
# An ordinary diffusion model adds noise to signals and learns to remove it. We have no signals. So we add
# noise to the *target observation*, $O^{trgt}_t = \alpha(t)\, O^{trgt} + \sigma(t)\,\varepsilon$ with time
# $t$ from 0 (clean) to 1 (pure noise), and the network predicts the *signal*:
#
# $$\hat S = \mathrm{denoise}(O^{ctxt}, O^{trgt}_t, t, \phi^{ctxt}, \phi^{trgt}). \tag{4}$$
#
# A context $O^{ctxt} = o$ leaves a line of possible signals: $S = o\,u + v\,n$, with $u$ the context's direction and
# $n$ perpendicular to it. The network predicts only the unknown coordinate $v$ along the line, so that every signal
# agrees with the context exactly. As a first guess we take the posterior mean of $v$ for the prior $N(0, 1)$. The
# network adds a correction, in units of the posterior's standard deviation. So at low noise the correction is small.
#
# The network's 14 inputs are the first guess (2 numbers), the context's direction (2), the standard deviation (1), its
# logarithm (1), and the guess once more, as sines and cosines of its multiples (8). These let a small network
# describe fine structures. Opposite directions give the same line, so the network gets the direction of the
# doubled angle.

# %% tags=["idea"]
def alpha(t):
    return torch.cos(torch.pi / 2 * t)


def sigma(t):
    return torch.sin(torch.pi / 2 * t)


def posterior_std(t, delta_phi):  # of v given the noisy target, for v ~ N(0, 1): from 0 (known) to 1 (unknown)
    return sigma(t) / (sigma(t) ** 2 + (alpha(t) * delta_phi.sin()) ** 2).sqrt()


net = torch.nn.Sequential(torch.nn.Linear(14, 128), torch.nn.ReLU(), torch.nn.Linear(128, 128), torch.nn.ReLU(),
                          torch.nn.Linear(128, 128), torch.nn.ReLU(), torch.nn.Linear(128, 2))


def denoise(context, phi_context, noisy, phi_target, t):
    u, n, delta_phi = direction(phi_context), direction(phi_context + torch.pi / 2), phi_target - phi_context
    std = posterior_std(t, delta_phi)
    innovation = noisy - alpha(t) * delta_phi.cos() * context  # what the context leaves open
    v = alpha(t) * delta_phi.sin() * innovation * (std / sigma(t)) ** 2  # the posterior mean
    guess, scale = context[:, None] * u + v[:, None] * n, std[:, None]
    encoding = [(2 * guess).sin(), (2 * guess).cos(), (4 * guess).sin(), (4 * guess).cos()]
    correction = net(torch.cat([guess, direction(2 * phi_context), scale, scale.log() / 2, *encoding], -1))
    return guess + scale * (n * correction).sum(-1, keepdim=True) * n  # moves the guess along the line only

# %% [markdown]
# ## 3. Training: the forward model closes the loop
#
# The predicted signal cannot be compared with the true one, which is unknown. Its *observations* can be compared with
# the true ones. The forward model gives them, for the target and for a third direction, which is no input of the
# network:
#
# $$\hat O = \mathrm{forward}(\hat S, \phi) \tag{5}$$
# $$L^{trgt} = \| O^{trgt} - \mathrm{forward}(\hat S, \phi^{trgt}) \|^2 \tag{8}$$
# $$L^{novel} = \| O^{novel} - \mathrm{forward}(\hat S, \phi^{novel}) \|^2 \tag{9}$$
#
# Where little noise is left, errors are small. A weight makes them count as much as the large errors at high noise.
# It is $1 / (0.05^2 + s^2)$, where $s$ is the standard deviation of $v$ given the noisy target. The weight depends on
# time and directions alone. So it changes how fast the network learns, not the minimiser of the loss: the conditional
# mean of the signal.
#
# In training, all three directions are random. The loop keeps copies of the weights from four moments, and of the
# final ones. Section 4 samples with each of them. The smallest possible loss is not 0: a noisy target leaves the signal
# uncertain. Each printed loss is that of one batch, so it varies by chance.

# %% tags=["idea", "nbval-ignore-output"]
optimiser = torch.optim.Adam(net.parameters())
schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=STEPS, pct_start=0.1)
copies = {}
for step in range(STEPS):
    (context, target, novel), (phi_context, phi_target, phi_novel) = observe(1024)
    t = 0.001 + 0.998 * torch.rand(1024)
    noisy = alpha(t) * target + sigma(t) * torch.randn(1024)
    S = denoise(context, phi_context, noisy, phi_target, t)  # Eq. 4
    loss_target = (target - forward(S, phi_target)) ** 2  # Eq. 5 inside Eq. 8
    loss_novel = (novel - forward(S, phi_novel)) ** 2  # Eq. 9
    loss = ((loss_target + loss_novel) / (0.05**2 + posterior_std(t, phi_target - phi_context) ** 2)).mean()
    if step in (0, STEPS // 50, STEPS // 10, STEPS // 3):
        print(f"step {step}: loss {loss.item():.2f}")
        copies[step] = {name: weight.clone() for name, weight in net.state_dict().items()}
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    schedule.step()
print(f"step {STEPS}: loss {loss.item():.2f}")
copies[STEPS] = {name: weight.clone() for name, weight in net.state_dict().items()}

# %% [markdown]
# ## 4. Sampling: denoise, observe, repeat
#
# Start with a target of pure noise. Predict the signal (4), apply the forward model (5), and step to the next, lower
# time $t'$ (6). The step here is the deterministic one of DDIM, which reuses the noise that the prediction
# implies:
#
# $$O^{trgt}_{t'} = \alpha(t')\,\hat O + \sigma(t')\,\hat\varepsilon, \qquad
#   \hat\varepsilon = (O^{trgt}_t - \alpha(t)\,\hat O) / \sigma(t). \tag{6}$$
#
# (The paper counts steps. It writes $t-1$ for $t'$, and $S_{t-1}$ for $\hat S$.)
#
# For sampling we choose the target's direction perpendicular to the context's. There the target is the unknown
# coordinate itself. The sample is the signal predicted at the smallest $t > 0$.

# %% tags=["idea"]
TIMES = 0.001 + 0.998 * torch.linspace(1, 0, 64) ** 2  # smaller steps at low noise levels


@torch.no_grad()
def trajectory(context, phi_context, noisy):
    phi_target = phi_context + torch.pi / 2
    # At the last time only the signal is used, so this step needs no lower time.
    for t, t_next in zip(TIMES, [*TIMES[1:], TIMES[-1]], strict=True):
        S = denoise(context, phi_context, noisy, phi_target, t)  # Eq. 4
        target = forward(S, phi_target)  # Eq. 5
        yield S, context[:, None] * direction(phi_context) + noisy[:, None] * direction(phi_target)
        noisy = alpha(t_next) * target + sigma(t_next) * (noisy - alpha(t) * target) / sigma(t)  # Eq. 6


def sample(context, phi_context, step=-1):
    return list(trajectory(context, phi_context, torch.randn(len(context))))[step][0]


# %% [markdown]
# We draw 1,000 samples (blue) for one context (vermilion line) with each of the five copies, always from the same
# noise. The cross is the signal that the network predicts from pure noise. At the end of the training it is the
# conditional mean, which lies where there is no point. A regression predicts this mean.

# %% tags=["drawing", "nbval-ignore-output"]
# The true points are for the figures only.
true_points, noise, value, angle = sample_signals(100 * NUM_POINTS), torch.randn(1000), *torch.tensor([0.6, 1.6])


def plot_plane(ax, value, angle, points, title=None, color=SAMPLES):
    format_plane(ax, title)
    ax.scatter(*true_points[:6000].T, s=3, color=HIDDEN, alpha=0.1, lw=0)
    ax.axline(value * direction(angle), slope=-1 / angle.tan().item(), color=CONTEXT, lw=1, zorder=3, label="context")
    ax.scatter(*points.T, s=9, color=color, alpha=0.25, lw=0, zorder=2)
    ax.plot(*sample(value[None], angle[None], 0).T, "X", color=MEAN, ms=9, mec="white", zorder=4, label="mean")


training_figure, axes = plt.subplots(1, 5, figsize=(10, 2.4))
for ax, (step, weights) in zip(axes, copies.items(), strict=False):
    net.load_state_dict(weights)
    steps = list(trajectory(value.expand(1000), angle.expand(1000), noise))
    plot_plane(ax, value, angle, steps[-1][0], f"after {step} steps")

# %% [markdown]
# Now we watch this sampling. Above: each line is one noisy target, drawn as its position on the context's line, from
# pure noise at the left to the sample at the right (green, as targets are). Below: the context's line (vermilion), and
# on it (blue) the signals that the network predicts from the noisy targets at five times. From pure noise all
# predictions equal the conditional mean (cross). At lower noise levels they separate.

# %% tags=["drawing", "nbval-ignore-output"]
trajectory_figure, axes = plt.subplot_mosaic([["flow"] * 5, [0, 16, 32, 48, 63]], figsize=(10, 4.8))
axes["flow"].plot(TIMES, torch.stack([forward(x, angle - torch.pi / 2) for _, x in steps]), TARGET, lw=0.5, alpha=0.1)
axes["flow"].set_xscale("function", functions=(lambda t: t**0.5, lambda root: root**2))
axes["flow"].set(xlabel="$t$", ylabel="noisy target", xlim=(1, 0.001), ylim=(-3, 3), xticks=[1, 0.6, 0.3, 0.1, 0.01])
for k in (0, 16, 32, 48, 63):
    plot_plane(axes[k], value, angle, steps[k][0], f"predicted at t = {TIMES[k]:.2g}")

# %% [markdown]
# ## 5. Is it right?
#
# *Every sample agrees with its context*, by construction, up to rounding. *The samples are distributed along the
# line as the truth is*: the lower row compares their histogram with that of the true points close to the line, out
# of two million. The cross and the vertical line are the network's prediction from pure noise: the conditional mean,
# which a regression with the same loss would predict.

# %% tags=["drawing", "nbval-ignore-output"]
def plot_histogram(ax, value, angle, points, label="samples", color=SAMPLES):
    psi, near = angle - torch.pi / 2, true_points[(forward(true_points, angle) - value).abs() < 0.01]
    ax.hist(forward(near, psi), 64, range=(-2.1, 2.1), density=True, color=HIDDEN, alpha=0.3, label="truth")
    ax.hist(forward(points, psi), 64, range=(-2.1, 2.1), density=True, color=color, histtype="step", label=label)
    ax.axvline(forward(sample(value[None], angle[None], 0)[0], psi), color=MEAN, lw=2.5)
    ax.set(xlim=(-2.1, 2.1), yticks=[], xlabel="coordinate along the line", ylabel="density", frame_on=False)


contexts_figure, axes = plt.subplots(2, 3, figsize=(9, 5), height_ratios=[2.4, 1])
for (top, bottom), (value, angle) in zip(axes.T, torch.tensor([(0.6, 1.6), (-0.7, 1.65), (0.3, 0.1)]), strict=True):
    points = sample(value.expand(4000), angle.expand(4000))
    plot_plane(top, value, angle, points[:1000], f"O = {value:.1f} at {angle.rad2deg():.0f}°")
    plot_histogram(bottom, value, angle, points)
handles = [*top.lines, *bottom.get_legend_handles_labels()[0]]
legend = contexts_figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)

# %% [markdown]
# *All samples together have the hidden distribution.* Take 20,000 new contexts in random directions and one sample
# for each. If every conditional distribution is right, these samples are distributed as the truth is. Each title has
# the distance of a quarter of the points (5,000) to as many new true points, averaged over four quarters and twelve
# sets of true points.

# %% tags=["drawing", "nbval-ignore-output"]
def sliced_wasserstein(A, B):  # distance of two point sets: Wasserstein-2 of their projections on 64 directions
    A, B = ((points @ direction(torch.linspace(0, torch.pi, 64)).T).sort(0).values for points in (A, B))
    return (A - B).square().mean().sqrt()


(values, *_), (angles, *_) = observe(NUM_POINTS)
sets = {"exact": sample_signals(NUM_POINTS), "samples": sample(values, angles), "regression": sample(values, angles, 0)}
truth, (marginal_figure, axes) = sample_signals(3 * NUM_POINTS), plt.subplots(1, 3, figsize=(9, 3.3))
for ax, (name, points), color in zip(axes, sets.items(), (HIDDEN, SAMPLES, MEAN), strict=True):
    distances = [sliced_wasserstein(a, b) for a in points.split(NUM_POINTS // 4) for b in truth.split(NUM_POINTS // 4)]
    format_plane(ax, f"{name}: {sum(distances) / len(distances):.3f} from the truth")
    ax.scatter(*points.T, s=2, color=color, alpha=0.25, lw=0)

# %% [markdown]
# The first number is the distance between two exact draws of the truth: sampling error alone. An exact sampler has this
# distance, up to chance. The regression agrees with every context, too, and was trained on the same observations. But
# its predictions are conditional means, and these do not have the distribution of the signals.

# %% [markdown]
# ## 6. Move it
#
# Change the direction and the value of the context, and step through the denoising. The noisy targets (green) are drawn
# as positions on the line. At the last step almost no noise is left in them. Without a running Python, see the similar
# figure of section 5, for three contexts.

# %% tags=["drawing", "nbval-ignore-output"]
from ipywidgets import interact


@torch.random.fork_rng(devices=[])  # one position of the sliders gives one picture
def show_samples(degrees=92, observed=0.6, step=63):
    value, angle = torch.tensor(observed), torch.tensor(degrees).deg2rad()
    points = list(trajectory(value.expand(1000), angle.expand(1000), noise))[step][1]
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.8))
    plot_plane(left, value, angle, points, f"O = {observed:.2f} at {degrees}°, t = {TIMES[step]:.2g}", TARGET)
    plot_histogram(right, value, angle, points, "noisy targets", TARGET)
    figure.legend(loc="outside lower center", ncols=4, frameon=False)


widget = interact(show_samples, degrees=(0, 180, 2), observed=(-1.7, 1.7, 0.05), step=(0, 63))

# %% [markdown]
# ## 7. What held, and what did not
#
# The numbers below are those of the saved run
# ([metrics.json](https://github.com/fwdiff-lite/fwdiff-lite/blob/main/figures/metrics.json)). The repository's code
# measures them on the samples of section 5; no cell of this page prints them.
#
# **Held.** No training example shows a point, and the samples draw the face. Each lies on the line of its context, up
# to an error of 5e-7 (the rounding of single precision). In the plane, the samples are as close to the truth as exact
# draws are: 0.96 times their distance. The regression is 9.6 times as far. The figure of section 5 gives 0.91 and 8.8:
# it averages over other true points.
#
# **Did not, quite.** Some samples lie between the parts of the face: 0.4 % are farther than 0.2 from every true point
# (30 % of the regression's predictions). The network is small, and its prediction is sometimes a blend of two parts. In
# the histograms of section 5 the highest peaks are about 1.3 times as high as the truth's. On single lines, the error
# is visible: the Wasserstein-1 distance of samples to the truth is 5.7 times that of as many exact draws (mean of the
# ratio over the lines of ten contexts). [01](01_toy_proof.ipynb) checks every conditional distribution against a closed
# form, with tests that can fail.
#
# **Not shown here.** Two directions determine a point of the plane, so the context and one target determine the signal.
# Where they do not, the remaining part of the signal comes out as a conditional mean. Further targets, one after
# another, must sample this part. Also, a projection is linear. If the forward model is not linear, there may be no
# signal whose observation is the mean observation. Then the samples are biased. [01](01_toy_proof.ipynb) shows both.
#
# ## 8. On your own
#
# 1. Draw another picture: change `arcs`. What is hard for the network?
# 2. Leave `loss_novel` out. Do the samples get worse? Why is it not needed here?
# 3. Let all observations of a point have one direction. In `observe`, write
#    `phi = (torch.pi * torch.rand(1, n)).expand(3, n)`.
#    What happens to the samples, and which assumption is violated?
#
# <details><summary>Answers</summary>
#
# 1. Look first at thin lines, and at contexts whose line is tangent to a part: there the distribution along the
#    line changes fast with the context, and a small network approximates it poorly.
# 2. They should not. Given the context, the target and the novel observation both depend on the one unknown $v$
#    alone, so their losses have the same minimum. This no longer holds where the target does not determine the
#    signal: [08](08_your_own_forward_model.ipynb#Novel-view-loss).
# 3. Every target now repeats its context, and no observation depends on the coordinate along the line. The losses are
#    zero from the first step, whatever the network predicts; the samples depend on its initial weights. Proposition
#    1 assumes that all observations together determine the signal.
#
# </details>
#
# **Further reading.** The paper, [arXiv 2306.11719](https://arxiv.org/abs/2306.11719); denoising diffusion,
# [arXiv 2006.11239](https://arxiv.org/abs/2006.11239); the deterministic step, [arXiv
# 2010.02502](https://arxiv.org/abs/2010.02502); and Cramér and Wold (1936), *Some theorems on distribution
# functions*, on why all projections together determine a distribution. Then [01](01_toy_proof.ipynb).
