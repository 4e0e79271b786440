"""Motion from a single image (section 4.2): `warping` is the inverse problem, `scenes` its synthetic data."""
