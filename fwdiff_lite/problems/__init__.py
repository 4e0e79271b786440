"""Stochastic inverse problems, one a file: signal, forward model, denoiser, data, baselines, truth where known."""
