"""Stochastic inverse problems, one a file or folder: signal, forward model, denoiser, data, baselines, known truths."""
