"""Bad input to fwdiff_lite.diffusion and the modules of its parts: model_checks, sampling, model_file, diagnostics."""

import math
import tempfile
from pathlib import Path

import torch
from torch import nn

from fwdiff_lite.diagnostics import check_samples
from fwdiff_lite.diffusion import ForwardDiffusion, ForwardRegression
from fwdiff_lite.observations import Observations, check_single_target
from fwdiff_lite.schedule import CosineSchedule


class Denoiser(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def condition(self, context, target_params, target_mask=None):
        return context.value.sum(1)

    def forward(self, condition, noisy_target, t):
        return self.linear(condition)


class Unconditioned(nn.Module):
    def forward(self, condition, noisy_target, t):
        return noisy_target


class Unfinished(nn.Module):
    def condition(self, context, target_params, target_mask=None):
        return None


class Maskless(Denoiser):
    def condition(self, context, target_params):
        return None


class Timeless(Denoiser):
    def forward(self, noisy_target):
        return noisy_target


class Plain:
    """A denoiser, but for nn.Module."""

    condition, forward = Denoiser.condition, Denoiser.forward


class Noisy:
    def __call__(self, signal, params):
        return forward(signal, params)

    def noise_std(self, params):
        return params[..., 0]


def forward(signal, params):
    return params * signal[:, None]


def signal_only(signal, params):
    return signal


class Static:
    @staticmethod
    def __call__(signal, params):
        return forward(signal, params)


class Crop(Noisy):
    def support(self, params):
        return torch.ones(*params.shape[:2], 3)


class Tuple(Denoiser):
    def forward(self, condition, noisy_target, t):
        return super().forward(condition, noisy_target, t), t


SUPPORT = r"support is a tensor of torch.float32 \(4, 1, 3\) for observations \(4, 1, 2\): wanted this shape"
VALUE, PARAMS, MASK = torch.ones(4, 1, 2), torch.ones(4, 1, 2), torch.ones(4, 1, dtype=torch.bool)
SEEN, EMPTY = Observations(VALUE, PARAMS), Observations(VALUE, PARAMS, ~MASK)
IMAGES = Observations(torch.ones(4, 1, 3, 2, 2), PARAMS)
COLUMN = Observations(VALUE[..., None], PARAMS)
PIXELS = torch.zeros(4, 1, 2, dtype=torch.long)
MODEL, REGRESSION = ForwardDiffusion(Denoiser(), forward), ForwardRegression(Denoiser(), forward)
T, NOISE = torch.full((4,), 0.5), torch.zeros(4, 1, 2)


def build(denoiser=None, forward_model=forward, **options):
    return ForwardDiffusion(Denoiser() if denoiser is None else denoiser, forward_model, **options)


def loss(context=SEEN, target=SEEN, t=T, noise=NOISE, **options):
    return MODEL.loss(context, target, t, noise, **options)


def autocast_loss():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return MODEL.loss(SEEN.to(torch.float64), SEEN.to(torch.float64), T, NOISE)


def image_loss(**options):
    noise = torch.zeros(4, 1, 3, 2, 2)
    return ForwardDiffusion(Denoiser(), forward).loss(SEEN, IMAGES, T, noise, **options)


def sample(context=SEEN, target_params=PARAMS, model=MODEL, **options):
    return model.sample(context, target_params, **{"steps": 1} | options)


def sequence(params=PARAMS, **options):
    return MODEL.sample_autoregressive(SEEN, params, **{"steps": 1} | options)


def load(content: bytes | None):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        if content is not None:
            path.write_bytes(content)
        MODEL.load(path)


CONSTRUCTOR = [
    ("denoiser absent", lambda: ForwardDiffusion(None, forward), "NoneType is no denoiser"),
    ("denoiser a function", lambda: build(signal_only), "signal_only is no denoiser: it needs to be a torch.nn.Module"),
    ("denoiser a class", lambda: build(Denoiser), "Denoiser is no denoiser"),
    ("denoiser no Module", lambda: build(Plain()), "Plain is no denoiser: it needs to be a torch.nn.Module"),
    ("denoiser a bare network", lambda: build(nn.Linear(2, 2)), r"Linear is no denoiser: it needs condition\(context"),
    ("denoiser without condition", lambda: build(Unconditioned()), "Unconditioned is no denoiser"),
    ("denoiser without forward", lambda: build(Unfinished()), "Unfinished is no denoiser"),
    ("denoiser without target_mask", lambda: build(Maskless()), "condition does not take three arguments"),
    ("denoiser without time", lambda: build(Timeless()), "forward does not take three arguments"),
    ("forward_model absent", lambda: build(forward_model=None), "forward_model is of type NoneType"),
    ("forward_model a matrix", lambda: build(forward_model=VALUE), "forward_model is a tensor of torch.float32"),
    ("forward_model a class", lambda: build(forward_model=Noisy), "forward_model is the class Noisy: wanted an ob"),
    ("forward_model of a signal", lambda: build(forward_model=lambda s: s), "does not take two arguments: wanted"),
    ("forward_model a Module of a signal", lambda: build(forward_model=nn.ReLU()), "ReLU does not take two arguments"),
    ("forward_model with a static method", lambda: build(forward_model=Static()), None),
    ("forward_model a function of C", lambda: build(forward_model=torch.mul), None),
    ("schedule a number", lambda: build(schedule=0.5), "schedule is of type float: it needs alpha"),
    ("schedule a class", lambda: build(schedule=CosineSchedule), "schedule is of type type"),
    ("novel_weight negative", lambda: build(novel_weight=-1.0), "got novel_weight = -1.0, wanted a finite number"),
    ("novel_weight NaN", lambda: build(novel_weight=math.nan), "got novel_weight = nan"),
    ("novel_weight text", lambda: build(novel_weight="1"), "got novel_weight = '1'"),
    ("novel_weight absent", lambda: build(novel_weight=None), "got novel_weight = None"),
    ("target_shape a number", lambda: build(target_shape=3), "target_shape is of type int"),
    ("target_shape 0", lambda: build(target_shape=(0,)), "got target_shape = 0, wanted a whole number of at"),
    ("target_shape 1.5", lambda: build(target_shape=(1.5,)), "got target_shape = 1.5, wanted a whole number"),
    ("target_shape empty", lambda: build(target_shape=()), None),
] + [
    (f"observation_scale {x}", lambda x=x: build(observation_scale=x), f"observation_scale (is|=) {x}")
    for x in (0, -1.0, math.nan, math.inf, None, True)
]

LOSS = [
    ("context absent", lambda: loss(context=None), "context is of type NoneType: wanted Observations"),
    ("context a tensor", lambda: loss(context=VALUE), "context is a tensor of torch.float32"),
    ("target a tensor", lambda: loss(target=VALUE), "target is a tensor"),
    ("novel a tensor", lambda: loss(novel=VALUE), "novel is a tensor"),
    ("context of another batch", lambda: loss(context=SEEN[:3]), "target has 4 signals, context 3"),
    ("novel of another batch", lambda: loss(novel=SEEN[:3]), "novel has 3 signals, context 4"),
    ("target of other params", lambda: loss(target=Observations(VALUE, PARAMS[..., :1])), r"target has params \(1,\)"),
    ("novel of other params", lambda: loss(novel=Observations(VALUE, PARAMS[..., :1])), r"novel has params \(1,\)"),
    (
        "novel of another canvas",
        lambda: loss(novel=Observations(torch.ones(4, 1, 3), PARAMS)),
        r"forward_model gave \(4, 1, 2\) where the observations are \(4, 1, 3\)",
    ),
    ("no signals", lambda: MODEL.loss(SEEN[:0], SEEN[:0], T[:0], NOISE[:0]), "target has 0 signals .* is empty"),
    ("no targets", lambda: loss(target=SEEN.select([]), noise=NOISE[:, :0]), "with 0 observations: it is empty"),
    ("no novel", lambda: loss(novel=SEEN.select([])), "novel has 4 signals with 0 observations: it is empty"),
    ("t absent", lambda: loss(t=None), "t is of type NoneType: wanted a torch tensor"),
    ("t a number", lambda: loss(t=0.5), "t is of type float"),
    ("t of another batch", lambda: loss(t=T[:3]), r"t \(3,\) and noise .* do not fit a target of"),
    ("t above", lambda: loss(t=T + 1), r"t must lie in \[0, 1\]"),
    ("t NaN", lambda: loss(t=T * math.nan), r"t must lie in \[0, 1\]"),
    ("noise absent", lambda: loss(noise=None), "noise is of type NoneType"),
    ("noise of another shape", lambda: loss(noise=NOISE[..., :1]), "do not fit a target of"),
    ("context float64", lambda: loss(context=SEEN.to(torch.float64)), r"weights are torch.float32: use context.to\("),
    ("params float64", lambda: loss(Observations(VALUE, PARAMS.double())), r"context has params of torch.float64, the"),
    ("target float64", lambda: loss(target=Observations(VALUE.double(), PARAMS)), "target has value of torch.float64"),
    ("target's params float64", lambda: loss(target=Observations(VALUE, PARAMS.double())), "target has params of"),
    ("values float64 in autocast", lambda: autocast_loss(), r"use context.to\(torch.float32\)"),
    (
        "target of another canvas",
        lambda: build(forward_model=lambda s, p: forward(s, p)[..., None]).loss(SEEN, COLUMN, T, NOISE[..., None]),
        r"is \(2, 1\), the context's is \(2,\): make the model with .* target_shape=\(2, 1\)",
    ),
    (
        "target of another canvas than target_shape",
        lambda: build(target_shape=(3,)).loss(SEEN, SEEN, T, NOISE),
        r"is \(2,\), the model's target_shape is \(3,\): make the model",
    ),
    ("support of another canvas", lambda: build(forward_model=Crop()).loss(SEEN, SEEN, T, NOISE), SUPPORT),
    ("pixels of the target only", lambda: image_loss(pixel_indices=PIXELS, novel=IMAGES), "or neither"),
    ("pixels of novel only", lambda: image_loss(novel_pixel_indices=PIXELS, novel=IMAGES), "or neither"),
    ("pixels without novel", lambda: image_loss(novel_pixel_indices=PIXELS), "novel_pixel_indices are of no novel"),
    (
        "pixels of two numbers",
        lambda: image_loss(pixel_indices=PIXELS, novel_pixel_indices=PIXELS[..., :1], novel=IMAGES),
        "give as many of one as of the other",
    ),
    ("pixels a list", lambda: image_loss(pixel_indices=[0]), "pixel indices of target is of type list"),
    ("pixels a number", lambda: image_loss(pixel_indices=torch.tensor(0)), r"pixel indices of target .* \(B, M, n\)"),
]

SAMPLER = [
    ("context absent", lambda: sample(context=None), "context is of type NoneType"),
    ("context a tensor", lambda: sample(context=VALUE), "context is a tensor"),
    ("context without signals", lambda: sample(SEEN[:0], PARAMS[:0]), "context holds no signals"),
    ("context empty", lambda: sample(EMPTY), "context is empty for 4 of 4 signals"),
    ("context NaN", lambda: sample(Observations(VALUE * math.nan, PARAMS)), "context holds 8 NaN"),
    (
        "context params NaN",
        lambda: sample(Observations(VALUE, PARAMS * math.nan)),
        "context has NaN or infinite params",
    ),
    ("context float64", lambda: sample(SEEN.to(torch.float64)), r"use context.to\(torch.float32\)"),
    ("target_params absent", lambda: sample(target_params=None), "target_params is of type NoneType"),
    ("target_params Observations", lambda: sample(target_params=SEEN), "wanted their parameters, as target.params"),
    ("support of another canvas", lambda: sample(model=build(forward_model=Crop())), SUPPORT),
    (
        "target_params float64",
        lambda: sample(target_params=PARAMS.double()),
        r"convert with params.to\(",
    ),
    ("target_params of another batch", lambda: sample(target_params=PARAMS[:3]), "not for the 4 signals"),
    ("target_params without count", lambda: sample(target_params=PARAMS[:, 0]), "are .* an observation, the context's"),
    ("target_params of another shape", lambda: sample(target_params=PARAMS[..., :1]), "an observation, the context's"),
    ("target_params without targets", lambda: sample(target_params=PARAMS[:, :0]), "name no target"),
    ("target_params NaN", lambda: sample(target_params=PARAMS * math.nan), "target_params .* holds NaN"),
    ("target_params int", lambda: sample(target_params=PARAMS.long()), "target_params is a tensor of torch.int64"),
    ("target_params of another device", lambda: sample(target_params=PARAMS.to("meta")), "target_params lie on meta"),
    ("target_mask list", lambda: sample(target_mask=[True]), "target_mask is of type list: wanted a bool tensor"),
    ("target_mask float", lambda: sample(target_mask=MASK.float()), "target_mask is a tensor of torch.float32"),
    ("target_mask of another count", lambda: sample(target_mask=MASK.expand(4, 2)), r"wanted a bool tensor \(4, 1\)"),
    ("forward_model of another shape", lambda: sample(model=build(forward_model=signal_only)), "forward_model gave"),
    ("trajectory steps 0", lambda: MODEL.trajectory(SEEN, PARAMS, steps=0), "got steps = 0, wanted .* at least 1"),
    ("trajectory context", lambda: MODEL.trajectory(SEEN[:0], PARAMS[:0]), "context holds no signals"),
    ("regression steps", lambda: sample(model=REGRESSION, steps=0), "got steps = 0, wanted a whole number of"),
    ("regression another batch", lambda: sample(target_params=PARAMS[:3], model=REGRESSION), "not for the 4 signals"),
    ("generator a seed", lambda: sample(generator=0), "generator is of type int: wanted torch.Generator"),
    ("posterior_mean of 0", lambda: MODEL.posterior_mean(SEEN, PARAMS, 0, steps=1), "got num_samples = 0, wanted"),
    ("sequence absent", lambda: sequence(None), "params_sequence is of type NoneType"),
    ("sequence empty", lambda: sequence(PARAMS[:, :0]), r"params_sequence must be \(B, L, \*par\) with L >= 1"),
    ("sequence without count", lambda: sequence(T), "params_sequence must be"),
    ("sequence of another batch", lambda: sequence(PARAMS[:3]), "not for the 4 signals"),
    ("sequence of samples", lambda: sequence(num_samples=2), r"takes no num_samples: give context.repeat\(k\)"),
    ("sequence with a mask", lambda: sequence(target_mask=MASK), "takes no target_mask: leave a target out"),
    ("one target, not two", lambda: check_single_target(PARAMS.repeat(1, 2, 1)), "one target for each signal, got 2"),
    ("one target, not none", lambda: check_single_target(PARAMS, ~MASK), "takes no masked target, got 4"),
] + [
    (f"{name} {x}", lambda name=name, x=x: sample(**{name: x}), f"^got {name} = .*, wanted a (whole |finite )?number")
    for name, values in {
        "steps": (0, -1, 2.5, None, "8", True),
        "eta": (-0.1, 1.1, math.nan, None, "0"),
        "guidance": (-1.0, math.nan, math.inf, None),
        "temperature": (-0.1, math.nan, math.inf, None, True, torch.ones(()), 10**400),
        "threshold": (-0.1, 1.5, math.nan, "0.9"),
        "num_samples": (0, -3, 1.5, "2"),
        "chunk_size": (0, -3, 1.5, "2"),
    }.items()
    for x in values
]

RESULTS = [  # of a forward model, or of a denoiser: in a loss, and in sampling
    (f"{name} {part}", lambda model=model, call=call: call(model), message)
    for name, model, message in [
        (
            f"forward_model gives {name}",
            build(forward_model=lambda signal, params, result=result: result(forward(signal, params))),
            message,
        )
        for name, result, message in [
            (
                "a tuple",
                lambda y: (y, y),
                r"by forward_model is of type tuple: wanted a tensor of torch.float32 \(4, 1\)",
            ),
            ("nothing", lambda y: None, "the observation by forward_model is of type NoneType"),
            ("numbers of numpy", lambda y: y.detach().numpy(), "the observation by forward_model is of type ndarray"),
            ("truth values", lambda y: y > 0, "the observation by forward_model is a tensor of torch.bool"),
            ("complex numbers", torch.Tensor.cfloat, "the observation by forward_model is a tensor of torch.complex64"),
            ("two observations of one", lambda y: y.repeat(1, 2, 1), r"\(4, 2, 2\) for params \(4, 1, 2\): wanted a"),
            ("no count", lambda y: y[:, 0], r"\(4, 2\) for params \(4, 1, 2\)"),
            (
                "float64",
                torch.Tensor.double,
                "torch.float64 from a signal of torch.float32: wanted a tensor of torch.f",
            ),
        ]
    ]
    + [("denoiser gives a tuple", build(Tuple()), r"returned a tuple, which forward_model does not take \(.*alone")]
    for part, call in [
        ("in a loss", lambda model: model.loss(SEEN, SEEN, T, NOISE)),
        ("in sampling", lambda model: sample(model=model)),
    ]
]

FILES_AND_SAMPLES = [
    ("check_samples of a function", lambda: check_samples(MODEL, loss), "batch is of type function: give a dict with"),
    ("load of nothing", lambda: load(None), "there is no model file"),
    ("load of text", lambda: load(b"no weights"), "is no file of a model"),
    ("load of an empty file", lambda: load(b""), "is no file of a model"),
    ("check_samples without target", lambda: check_samples(MODEL, {"context": SEEN}), "batch has no 'target'"),
    (
        "check_samples of tensors",
        lambda: check_samples(MODEL, {"context": SEEN, "target": VALUE}),
        "target is a tensor",
    ),
    ("check_samples of one signal", lambda: check_samples(MODEL, {"context": SEEN[:1], "target": SEEN[:1]}), "two or"),
    ("check_samples of two batches", lambda: check_samples(MODEL, {"context": SEEN, "target": SEEN[:2]}), "4 contexts"),
    (
        "check_samples of NaN",
        lambda: check_samples(MODEL, {"context": SEEN, "target": Observations(VALUE * math.nan, PARAMS)}),
        "target holds 8 NaN",
    ),
] + [
    (
        f"check_samples num_samples {k}",
        lambda k=k: check_samples(MODEL, {"context": SEEN, "target": SEEN}, num_samples=k),
        "num_samples",
    )
    for k in (0, 1, 2.5)
]

CASES = [
    (f"{group} {name}", call, message)
    for group, cases in {
        "model": CONSTRUCTOR,
        "loss": LOSS,
        "sample": SAMPLER,
        "results": RESULTS,
        "": FILES_AND_SAMPLES,
    }.items()
    for name, call, message in cases
]


class StatesNoise:
    """A forward model whose noise_std is wrong."""

    def __init__(self, noise_std):
        self.noise_std = noise_std

    def __call__(self, signal, params):
        return torch.einsum("bd,bmd->bm", signal, params)


class Zeros(Denoiser):
    def forward(self, condition, noisy_target, t):
        return 0 * self.linear.weight.sum() + torch.zeros(len(t), 2)


def noisy_loss(noise_std):
    """A loss with that noise_std."""
    observations = Observations(torch.zeros(3, 1), torch.zeros(3, 1, 2))
    model = ForwardDiffusion(Zeros(), StatesNoise(noise_std))
    return model.loss(observations, observations, torch.full((3,), 0.5), torch.zeros(3, 1))


class Weighing(Denoiser):
    """A denoiser with this loss_weight."""

    def __init__(self, loss_weight):
        super().__init__()
        self.loss_weight = loss_weight


def weighted_loss(loss_weight):
    return build(Weighing(loss_weight)).loss(SEEN, SEEN, T, NOISE)


CASES += [
    ("loss_weight (B, 1)", lambda: weighted_loss(lambda condition, t: t[:, None]), r"loss_weight is .* \(4, 1\) for t"),
    ("loss_weight number", lambda: weighted_loss(lambda condition, t: 3.0), "loss_weight is of type float for t .4,."),
    (
        "loss_weight negative",
        lambda: weighted_loss(lambda condition, t: -t),
        "loss_weight gave a negative weight, which",
    ),
    ("loss_weight 0", lambda: weighted_loss(lambda condition, t: 0 * t), None),
    ("noise_std negative", lambda: noisy_loss(lambda params: -torch.ones(3, 1)), "noise_std gave a negative number"),
    ("noise_std number", lambda: noisy_loss(0.1), "noise_std is no method"),
    ("noise_std gives a number", lambda: noisy_loss(lambda params: 0.1), "noise_std gave"),
    ("noise_std shape", lambda: noisy_loss(lambda params: torch.ones(3)), r"noise_std gave \(3,\)"),
]
