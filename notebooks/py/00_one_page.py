# %% [markdown]
# # The whole method on one page
#
# A camera sees pictures of scenes, never scenes. A scanner sees shadows of bodies, never bodies. Can a
# diffusion model learn to draw samples of a thing that no training example ever shows?
#
# **What you will see.** Somewhere in the plane hides a distribution of points. Nobody shows the network a
# point. It gets single numbers: a point's shadow on a line, and the direction of that line. From one such
# number it learns to sample all the points that could have cast it, and its samples together draw the picture
# that was hidden.
#
# **What you need.** Python, `torch` and `matplotlib`, and `ipywidgets` for the slider at the end. The method
# takes nothing from this repository, and nothing is downloaded. The network trains while you watch, on one
# CPU core. How long the page takes, as last measured, and links that open it elsewhere stand below section 7.
#
# **What it rebuilds.** Equations 4, 5, 6, 8 and 9 of *Diffusion with Forward Models* (Tewari et al., NeurIPS
# 2023, [arXiv 2306.11719](https://arxiv.org/abs/2306.11719)). They are marked in the code. The rest is
# decoration.

# %% tags=["parameters"]
PROFILE = "cpu"

# %%
import matplotlib.pyplot as plt
import torch

# Training steps and points in the pictures; a network as small as this one gains nothing from a GPU.
STEPS, MANY = {"smoke": (50, 2_000), "cpu": (6_000, 20_000), "gpu": (6_000, 20_000)}[PROFILE]
HIDDEN, SAMPLES, CONTEXT, TARGET, NOVEL, MEAN = "#4a4a4a", "#0072b2", "#d55e00", "#009e73", "#e69f00", "#cc79a7"
torch.manual_seed(0)
plt.rcParams.update({"figure.constrained_layout.use": True, "axes.titlesize": 10, "axes.titlelocation": "left"})

# %% [markdown]
# ## 1. What is hidden, and what is seen
#
# A signal $S$ is a point in the plane, drawn from a distribution that only nature knows. An observation is
# one number, the projection of $S$ on a direction $\phi$. This is the **forward model**:
#
# $$O = \mathrm{forward}(S, \phi) = S_x \cos\phi + S_y \sin\phi .$$
#
# Each training example is a handful of observations of the same point: a *context*, a *target* and a *novel*
# one. The point itself never leaves the function `observe`.

# %%
def nature(n):
    # Four arcs: share of the points, centre, radii, from and to in half turns.
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
    return forward(nature(n), phi), phi  # (3, n) numbers and the (3, n) directions they belong to


# %% [markdown]
# On the left, what nature keeps to itself, with one point and the three directions in which it is observed.
# On the right, all that the network gets: dots. One point casts three of them, and they lie on one wave.

# %% tags=["nbval-ignore-output"]
def plane(ax, title=None):
    ax.set(xlim=(-2.1, 2.1), ylim=(-2.1, 2.1), xticks=[], yticks=[], aspect="equal", frame_on=False, title=title)


S, phi, turn = torch.tensor([0.98, 0.55]), torch.tensor([2.3, 1.25, 0.2]), torch.linspace(0, torch.pi, 200)
numbers, dots, angles = forward(S, phi), *(part.flatten() for part in observe(4000))
data, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), width_ratios=[1, 1.35])
plane(left, "hidden: points, one of them singled out")
left.scatter(*nature(6000).T, s=3, color=HIDDEN, alpha=0.2, lw=0)
right.scatter(angles, dots, s=3, color=HIDDEN, alpha=0.2, lw=0)
right.plot(turn, forward(S, turn), color="black", lw=1)
right.set(title="seen: numbers and their directions", xlabel=r"direction $\phi$ (radians)", ylabel="observation $O$")
for o, p, color, name in zip(numbers, phi, (CONTEXT, TARGET, NOVEL), ("context", "target", "novel"), strict=True):
    left.plot(*torch.stack([0 * S, o * direction(p)]).T, color=color, lw=4, solid_capstyle="round")
    left.plot(*torch.stack([o * direction(p), S]).T, ":o", color=color, markevery=[1], mec="black", mfc="black")
    right.plot(p, o, "o", color=color, ms=10, mec="white")
    right.text(p + 0.08, o + 0.08, name, color=color, weight="bold")

# %% [markdown]
# ## 2. The network: from a noisy observation to a signal
#
# An ordinary diffusion model adds noise to signals and learns to take it away. We have no signals. So we add
# noise to the *target observation*, $O^{trgt}_t = \alpha(t)\, O^{trgt} + \sigma(t)\,\varepsilon$ with time
# $t$ from 0 (clean) to 1 (all noise), and ask the network for the *signal*:
#
# $$S_{t-1} = \mathrm{denoise}(O^{ctxt}, O^{trgt}_t, t, \phi^{ctxt}, \phi^{trgt}). \tag{4}$$
#
# A context $O^{ctxt} = o$ leaves a line of candidates open: $S = o\,u + v\,n$, with $u$ in the context's
# direction and $n$ across it. The network is asked only for what is open, the place $v$ on the line, so that
# every answer casts the observed shadow exactly. It starts from the place that the noisy target suggests, and
# corrects it by no more than that suggestion is blurred.

# %%
def alpha(t):
    return torch.cos(torch.pi / 2 * t)


def sigma(t):
    return torch.sin(torch.pi / 2 * t)


def blur(t, turn):  # what is left to find out about v, whose spread is about 1: from 0, all known, to 1, nothing
    return sigma(t) / (sigma(t) ** 2 + (alpha(t) * turn.sin()) ** 2).sqrt()


net = torch.nn.Sequential(torch.nn.Linear(14, 128), torch.nn.ReLU(), torch.nn.Linear(128, 128), torch.nn.ReLU(),
                          torch.nn.Linear(128, 128), torch.nn.ReLU(), torch.nn.Linear(128, 2))


def denoise(context, phi_context, noisy, phi_target, t):
    u, n, turn = direction(phi_context), direction(phi_context + torch.pi / 2), phi_target - phi_context
    b = blur(t, turn)
    v = alpha(t) * turn.sin() * (noisy - alpha(t) * turn.cos() * context) * (b / sigma(t)) ** 2
    S, b = context[:, None] * u + v[:, None] * n, b[:, None]
    wave = [(2 * S).sin(), (2 * S).cos(), (4 * S).sin(), (4 * S).cos()]
    correction = net(torch.cat([S, direction(2 * phi_context), b, b.log() / 2, *wave], -1))
    return S + b * (n * correction).sum(-1, keepdim=True) * n  # moves along the line, never off it


# %% [markdown]
# ## 3. Training: the forward model closes the loop
#
# The signal cannot be compared with anything, since nobody has seen the true one. Its *observations* can. The
# forward model takes them, of the target and of a third direction that the network knows nothing about:
#
# $$\hat O = \mathrm{forward}(S_{t-1}, \phi) \tag{5}$$
# $$L^{trgt} = \| O^{trgt} - \mathrm{forward}(S_{t-1}, \phi^{trgt}) \|^2 \tag{8}$$
# $$L^{novel} = \| O^{novel} - \mathrm{forward}(S_{t-1}, \phi^{novel}) \|^2 \tag{9}$$
#
# What the losses are divided by makes small errors count where little noise is left. It depends on time and
# directions alone, so it changes how fast the network learns, not what the best answer is: the mean of all
# signals that fit.

# %% tags=["nbval-ignore-output"]
optimiser = torch.optim.Adam(net.parameters())
schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=STEPS, pct_start=0.1)
for step in range(STEPS):
    (context, target, novel), (phi_context, phi_target, phi_novel) = observe(1024)
    t = 0.001 + 0.998 * torch.rand(1024)
    noisy = alpha(t) * target + sigma(t) * torch.randn(1024)
    S = denoise(context, phi_context, noisy, phi_target, t)  # Eq. 4
    loss_target = (target - forward(S, phi_target)) ** 2  # Eq. 5 inside Eq. 8
    loss_novel = (novel - forward(S, phi_novel)) ** 2  # Eq. 9
    loss = ((loss_target + loss_novel) / (0.05**2 + blur(t, phi_target - phi_context) ** 2)).mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    schedule.step()
    if (step + 1) % (STEPS // 5) == 0:
        print(f"step {step + 1}: loss {loss.item():.2f}")

# %% [markdown]
# ## 4. Sampling: denoise, observe, repeat
#
# Start with a target that is nothing but noise. Estimate the signal (4), observe it (5), and step to a little
# less noise (6); here with the deterministic step known as DDIM, which keeps the noise that the estimate
# implies:
#
# $$O^{trgt}_{t-1} = \alpha(t-1)\,\hat O + \sigma(t-1)\,\hat\varepsilon, \qquad
#   \hat\varepsilon = (O^{trgt}_t - \alpha(t)\,\hat O) / \sigma(t). \tag{6}$$
#
# We look along the line that the context leaves open: the target's direction is at right angles to the
# context's. What comes out at the end is the signal estimated at the smallest $t > 0$.

# %%
TIMES = 0.001 + 0.998 * torch.linspace(1, 0, 64) ** 2  # short steps where little noise is left


@torch.no_grad()
def trajectory(context, phi_context, noisy):
    phi_target = phi_context + torch.pi / 2
    for t, t_next in zip(TIMES, [*TIMES[1:], TIMES[-1]], strict=True):
        S = denoise(context, phi_context, noisy, phi_target, t)  # Eq. 4
        target = forward(S, phi_target)  # Eq. 5
        yield S, context[:, None] * direction(phi_context) + noisy[:, None] * direction(phi_target)
        noisy = alpha(t_next) * target + sigma(t_next) * (noisy - alpha(t) * target) / sigma(t)  # Eq. 6


def sample(context, phi_context, step=-1):
    return list(trajectory(context, phi_context, torch.randn(len(context))))[step][0]


# %% [markdown]
# One observation, a thousand samples. Above, the noisy targets, drawn as the places on the line that they
# stand for. Below, the signals that the network estimates from them. At first all agree on one answer, the
# mean of what is possible (the cross), which lies where no point ever was. A regression would stop there. As
# the noise goes, each sample makes up its mind.

# %% tags=["nbval-ignore-output"]
crowd, noise = nature(100 * MANY), torch.randn(1000)  # the points are for the reader's eyes only


def scene(ax, value, angle, dots, title=None):
    plane(ax, title)
    ax.scatter(*crowd[:6000].T, s=3, color=HIDDEN, alpha=0.1, lw=0)
    ax.axline(value * direction(angle), value * direction(angle) + direction(angle + torch.pi / 2), color=CONTEXT, lw=1)
    ax.scatter(*dots.T, s=9, color=SAMPLES, alpha=0.25, lw=0, zorder=2)
    ax.plot(*sample(value[None], angle[None], 0).T, "X", color=MEAN, ms=9, mec="white")


value, angle = torch.tensor(0.6), torch.tensor(1.6)
moments = list(trajectory(value.expand(1000), angle.expand(1000), noise))
flow, axes = plt.subplots(2, 5, figsize=(10, 4.5))
for column, k in zip(axes.T, (0, 16, 32, 48, 63), strict=True):
    scene(column[0], value, angle, moments[k][1], f"noisy targets, t = {TIMES[k]:.2g}")
    scene(column[1], value, angle, moments[k][0], "estimated signals")

# %% [markdown]
# ## 5. Is it right?
#
# *Every sample casts the observed shadow*, by construction, up to rounding. *The samples spread along the
# line as the truth does*: below the pictures, their histogram over that of two million true points, of those
# within a hair of the line. The cross and the bar are the network's first answer, made from noise alone: the
# mean of what is possible, which is what a regression trained on the same loss would give.

# %% tags=["nbval-ignore-output"]
def profile(ax, value, angle, dots):
    place, near = angle - torch.pi / 2, crowd[(forward(crowd, angle) - value).abs() < 0.01]
    ax.hist(forward(near, place), 64, range=(-2.1, 2.1), density=True, color=HIDDEN, alpha=0.3, label="truth")
    ax.hist(forward(dots, place), 64, range=(-2.1, 2.1), density=True, color=SAMPLES, histtype="step", label="samples")
    ax.axvline(forward(sample(value[None], angle[None], 0)[0], place), color=MEAN, lw=2.5, label="mean (regression)")
    ax.set(xlim=(-2.1, 2.1), yticks=[], xlabel="place on the line", frame_on=False)


contexts, axes = plt.subplots(2, 3, figsize=(9, 5), height_ratios=[2.4, 1])
for (top, bottom), (value, angle) in zip(axes.T, torch.tensor([(0.6, 1.6), (-0.7, 1.65), (0.3, 0.1)]), strict=True):
    dots = sample(value.expand(4000), angle.expand(4000))
    scene(top, value, angle, dots[:1000], f"O = {value:.1f} at {angle.rad2deg():.0f}°")
    profile(bottom, value, angle, dots)
legend = contexts.legend(*bottom.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)

# %% [markdown]
# *All samples together draw what was hidden.* Take 20,000 fresh contexts in random directions and one sample
# for each. If every conditional distribution is right, these samples are spread as the truth is.

# %% tags=["nbval-ignore-output"]
def distance(A, B):  # sliced Wasserstein: how far apart the shadows of two clouds are, over all directions
    A, B = ((cloud @ direction(torch.linspace(0, torch.pi, 64)).T).sort(0).values for cloud in (A, B))
    return (A - B).square().mean().sqrt()


(seen, *_), (angles, *_) = observe(MANY)
clouds = {"truth, drawn anew": nature(MANY), "samples": sample(seen, angles), "regression": sample(seen, angles, 0)}
everything, axes = plt.subplots(1, 3, figsize=(9, 3.3))
for ax, (name, cloud), color in zip(axes, clouds.items(), (HIDDEN, SAMPLES, MEAN), strict=True):
    plane(ax, f"{name}: {distance(cloud, nature(MANY)):.2g} from the truth")
    ax.scatter(*cloud.T, s=2, color=color, alpha=0.25, lw=0)

# %% [markdown]
# The first number compares the truth with another draw of itself, so it is chance alone, and differs from
# draw to draw; no sampler can be expected to come closer. The regression, too, knows every context exactly
# and has learnt from the same numbers. But its answers are means, and means of a face are no face.
#
# ## 6. What held, and what did not
#
# **Held.** No point was ever shown, and the samples draw the face. Each lies on the line that its context
# leaves open, to the rounding of single precision. A deterministic model that gives the mean puts it into
# empty space.
#
# **Did not, quite.** Some samples are astray, in the space between the face's parts: the network is small,
# and where it has to choose between two parts it sometimes ends halfway. The peaks along a line are a little
# too narrow and too tall. The numbers below section 7 say how much: in the plane the samples are as close to
# the truth as another draw of it, along single lines they are several times as far. Both measures are blunt.
# `01_toy_proof` checks every conditional distribution against a closed form, with tests that can fail.
#
# **Not shown here.** Two directions pin a point of the plane down, so the context and one target determine
# the signal. Where they do not, what neither of them sees comes out as a mean and must be sampled by further
# targets, one after another. And a projection is linear: a forward model that cannot produce the mean of its
# observations biases the samples. Both are shown in `01_toy_proof`.
#
# ## 7. On your own
#
# 1. Draw another picture: change `arcs`. What does the network find hard?
# 2. Leave `loss_novel` out. Do the samples get worse? Why can they do without it here?
# 3. Let all observations of a point share one direction. In `observe`, write
#    `phi = (torch.pi * torch.rand(1, n)).expand(3, n)`.
#    What becomes of the samples, and which assumption did you break?
#
# <details><summary>Answers</summary>
#
# 1. Look first at fine lines, and at contexts whose line just touches a part: there the distribution along the
#    line changes fast with the context, and a small network is slow to follow.
# 2. They stay about as good. With the context known, target and novel observation both depend on the one
#    unknown $v$ alone, so their losses have the same minimum. That ends where the target does not determine
#    the signal.
# 3. Every target now repeats its context, and nothing says where on the line a point lies. The losses are
#    zero from the first step, whatever the network answers; the samples follow its first weights. Proposition
#    1 assumes that all observations together determine the signal.
#
# </details>
#
# **Further reading.** The paper, [arXiv 2306.11719](https://arxiv.org/abs/2306.11719); denoising diffusion,
# [arXiv 2006.11239](https://arxiv.org/abs/2006.11239); the deterministic step, [arXiv
# 2010.02502](https://arxiv.org/abs/2010.02502); and Cramér and Wold (1936), *Some theorems on distribution
# functions*, on why all shadows together determine a distribution. Then `01_toy_proof`.

# %% tags=["nbval-ignore-output"]
# This cell serves this repository's tests and README only: it keeps the figures, the numbers and a moving picture.
import importlib.util

if importlib.util.find_spec("fwdiff_lite"):
    from IPython.display import display

    from fwdiff_lite.pipeline.notebook import Run
    from fwdiff_lite.plotting import frames_from_figure

    run = Run("00_one_page", PROFILE)
    for name, figure in {"data": data, "flow": flow, "contexts": contexts, "everything": everything}.items():
        run.savefig(figure, name)
    def apart(cloud):  # the distance of quarters of a cloud from as many true points, on average
        return sum(distance(part, nature(len(part))) for part in cloud.split(MANY // 4)) / 4

    def stray(cloud):  # the share of points that lie where the truth has none
        return (torch.cdist(cloud[:4000], crowd[:6000]).amin(1) > 0.2).float().mean()

    floor = (apart(nature(MANY)) + apart(nature(MANY))) / 2
    ratios = []  # on ten lines, the distance of samples to true points over that of true points to one another
    for value, angle in zip(seen[:10], angles[:10], strict=True):
        near = forward(crowd[(forward(crowd, angle) - value).abs() < 0.01], angle + torch.pi / 2)
        half = len(near) // 2
        drawn = forward(sample(value.expand(half), angle.expand(half)), angle + torch.pi / 2).sort().values
        one, two = near[:half].sort().values, near[half : 2 * half].sort().values
        ratios.append(((drawn - one).abs().mean() / (one - two).abs().mean()).item())
    run.record(
        context_residual_max=(forward(clouds["samples"], angles) - seen).abs().max(),
        plane_sw2_over_floor=apart(clouds["samples"]) / floor,
        regression_sw2_over_floor=apart(clouds["regression"]) / floor,
        line_w1_over_floor=sum(ratios) / len(ratios),
        stray_share=stray(clouds["samples"]),
        regression_stray_share=stray(clouds["regression"]),
    )

    movie, (left, right) = plt.subplots(1, 2, figsize=(6.4, 3.3), dpi=100)
    turns, settle, value = run.pick(smoke=4, cpu=64, gpu=64), run.pick(smoke=2, cpu=20, gpu=20), torch.tensor(0.35)
    sweep = torch.linspace(0, 2 * torch.pi, turns + 1) + 0.1
    flows = [list(trajectory(value.expand(120), angle.expand(120), noise[:120])) for angle in sweep]
    steps = [round(63 * k / settle) for k in range(settle)]  # from noise to clean, on the first line
    story = [(0, k) for k in steps] + [(i, 63) for i in range(turns)]  # (which line, which step)
    story += [(turns, 63)] * 8 + [(turns, k) for k in steps[::-2]]
    scene(left, value, sweep[0], flows[0][0][1], "one number leaves a line open")
    (line, cross), moving = left.lines, left.collections[-1]
    moving.set(alpha=0.6, sizes=[14])
    plane(right, "all samples so far")
    printed = right.scatter([], [], s=4, color=SAMPLES, lw=0)
    frames_from_figure(movie)  # lays the figure out,
    movie.set_layout_engine("none")  # once for all
    prints, frames = torch.empty(0, 2), []
    for place, k in story:
        line.remove()
        start = value * direction(sweep[place])
        line = left.axline(start, start + direction(sweep[place] + torch.pi / 2), color=CONTEXT, lw=1, zorder=1)
        cross.set_data(*flows[place][0][0].mean(0)[:, None])
        moving.set_offsets(flows[place][k][1])
        if k == 63 and place < turns:
            between = torch.lerp(sweep[place], sweep[place + 1], torch.rand(120))
            prints = torch.cat([prints, sample(value.expand(120), between)])
        printed.set(offsets=prints, alpha=0.5 * k / 63)
        frames.append(frames_from_figure(movie))
    plt.close(movie)
    run.save_gif(frames, "samples", fps=12)
    run.finish()
    found = run.numbers
    print(f"largest error in the context: {found['context_residual_max']:.0e}")
    print(f"astray: {found['stray_share']:.1%} of samples, {found['regression_stray_share']:.1%} of means")
    print(f"samples against truth in the plane: {found['plane_sw2_over_floor']:.1f} times the least possible")
    print(f"samples against truth along ten lines: {found['line_w1_over_floor']:.1f} times the least possible")
    display(run.opening())

# %% [markdown]
# ## 8. Move it
#
# Turn the context, change its value, and step through the denoising. The same picture for three contexts
# stands in section 5, for readers without a kernel.

# %% tags=["nbval-ignore-output"]
from ipywidgets import interact


def look(degrees=92, observed=0.6, step=63):
    value, angle = torch.tensor(observed), torch.tensor(degrees).deg2rad()
    dots = list(trajectory(value.expand(1000), angle.expand(1000), noise))[step][1]
    _, (left, right) = plt.subplots(1, 2, figsize=(8, 3.6))
    scene(left, value, angle, dots, f"O = {observed:.2f} at {degrees}°, t = {TIMES[step]:.2g}")
    profile(right, value, angle, dots)


moving = interact(look, degrees=(0, 180, 2), observed=(-1.7, 1.7, 0.05), step=(0, 63))
