"""The toy problems of 01_toy_proof, in closed form.

mixture           Gaussian mixtures and their posteriors
projections       signals in R^2 or R^3, observed through projections: here Proposition 1 holds
unreachable_mean  two problems in which an ideal denoiser samples a wrong distribution
"""
