"""The experiments of 06_inverse_graphics and 07_ablations."""
