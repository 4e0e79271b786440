"""A known posterior, exact samples of it, and samples of wrong samplers: the controls that a metric must reject."""

import math

import torch

CONTROLS = ("mean", "shuffled", "prior", "x0.8", "x1.2")
WEIGHTS = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
MEANS = torch.tensor([[-1.1, -0.6], [0.8, -1.0], [0.0, 1.2], [1.5, 0.9]], dtype=torch.float64)
ROOTS = torch.tensor(
    [[[0.4, -0.1], [0.3, 0.2]], [[0.3, 0.0], [0.0, 0.3]], [[0.5, 0.1], [-0.2, 0.2]], [[0.2, -0.1], [0.1, 0.3]]],
    dtype=torch.float64,
)
COVARIANCES = ROOTS @ ROOTS.mT


def seed(n: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(n)


def normal(*shape: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def sample_labels(p: torch.Tensor, K: int, generator: torch.Generator) -> torch.Tensor:
    """(c, a) -> (c, K): K labels of each distribution."""
    return torch.multinomial(p, K, replacement=True, generator=generator)


class ToyPosterior:
    """A signal S in R^2 from a Gaussian mixture, observed as o = <u(phi), S>; v = <n(phi), S> is not observed.

    There are c contexts (o, phi). `samples` holds m samples of v for each context from the exact sampler and from the
    CONTROLS: the posterior mean, the samples of another context, the prior, and a posterior with a wrong variance.
    """

    def __init__(self, c: int, m: int, generator: torch.Generator):
        self.generator = generator
        self.signal = self.sample_prior(c)
        phi = 2 * math.pi * torch.rand(c, generator=generator, dtype=torch.float64)
        u, self.n = torch.stack([phi.cos(), phi.sin()], -1), torch.stack([-phi.sin(), phi.cos()], -1)
        self.o, self.v = (self.signal * u).sum(-1), (self.signal * self.n).sum(-1)
        self.context = torch.stack([self.o, phi.cos(), phi.sin()], -1)

        uu, un, nn = (torch.einsum("ci,kij,cj->ck", a, COVARIANCES, b) for a, b in ((u, u), (u, self.n), (self.n,) * 2))
        innovation = self.o[:, None] - u @ MEANS.T
        self.log_evidence = WEIGHTS.log() - 0.5 * (innovation**2 / uu + (2 * math.pi * uu).log())
        self.weights = self.log_evidence.softmax(-1)
        self.means, self.variances = self.n @ MEANS.T + un / uu * innovation, nn - un**2 / uu
        self.mean = (self.weights * self.means).sum(-1)

        exact, mean = self.sample_posterior(m), self.mean[:, None]
        self.prior_signals = self.sample_prior(c * m).view(c, m, 2)
        self.samples = {
            "exact": self.sample_posterior(m),
            "mean": mean.expand_as(exact),
            "shuffled": exact.roll(1, 0),
            "prior": torch.einsum("cmi,ci->cm", self.prior_signals, self.n),
            "x0.8": mean + math.sqrt(0.8) * (exact - mean),
            "x1.2": mean + math.sqrt(1.2) * (exact - mean),
        }

    def sample_prior(self, c: int) -> torch.Tensor:
        k = torch.multinomial(WEIGHTS, c, replacement=True, generator=self.generator)
        return MEANS[k] + (ROOTS[k] @ normal(c, 2, 1, generator=self.generator))[..., 0]

    def sample_posterior(self, m: int) -> torch.Tensor:
        k = torch.multinomial(self.weights, m, replacement=True, generator=self.generator)
        return self.means.gather(1, k) + self.variances.gather(1, k).sqrt() * normal(*k.shape, generator=self.generator)

    def log_density(self, v: torch.Tensor) -> torch.Tensor:
        """(c, m) -> (c, m): log p(v | o)."""
        variance = self.variances[:, None]
        log_p = -0.5 * ((v[..., None] - self.means[:, None]) ** 2 / variance + (2 * math.pi * variance).log())
        return (self.weights.log()[:, None] + log_p).logsumexp(-1)

    def c2st_features(self, v: torch.Tensor) -> torch.Tensor:
        """(c,) -> (c, 4): observation, direction, unobserved coordinate."""
        return torch.cat([self.context, v[:, None]], -1).float()
