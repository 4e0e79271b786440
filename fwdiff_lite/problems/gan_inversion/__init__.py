"""GAN inversion (section 4.3): `patches` is the problem, `stylegan2` its generator, `portraits` its data.

`study` trains all of it and examines it.
"""
