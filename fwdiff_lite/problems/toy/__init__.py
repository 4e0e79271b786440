"""The toy problems of 01_toy_proof, in closed form, and baselines.

mixture            Gaussian mixtures and their posteriors
projections        signals in R^2 or R^3, observed through projections: here Proposition 1 holds
noisy_projections  the same in R^2, with measured projections whose noise has a known standard deviation
unreachable_mean   two problems in which an ideal denoiser samples a wrong distribution

baselines          for comparison, trained: a diffusion model of the signal, and a conditional VAE
"""
