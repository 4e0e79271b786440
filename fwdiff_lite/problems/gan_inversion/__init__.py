"""GAN inversion (section 4.3), in modules that build on each other.

    stylegan2           the generator and the discriminator
    stylegan2_training  their training
    network_files       tensors of files, without running their code
    stylegan2_weights   published weights, converted to this generator
    portraits           the data: cartoon portraits, drawn by a program
    portrait_posterior  the true posterior of portraits given a crop
    patches             the problem: signal, forward model, denoiser
    measures            measures of generated portraits, of the generator's posterior, of the sampler's steps

`fwdiff_lite.experiments.gan_inversion` trains and evaluates all of them.
"""
