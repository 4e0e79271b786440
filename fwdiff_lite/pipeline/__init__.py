"""Runs the notebooks and publishes what they make; notebooks and command lines import it, nothing else does."""
