"""Types of command-line arguments."""

import argparse


def positive_int(text: str) -> int:
    """The argparse type of a whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no whole number above 0")
    return int(text)
