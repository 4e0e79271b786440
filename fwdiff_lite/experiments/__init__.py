"""Trainings and evaluations behind the notebooks, and their command lines."""
