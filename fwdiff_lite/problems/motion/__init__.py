"""Motion from a single image (section 4.2): `warping` is the problem, `scenes` its data, `study` its examination."""
