"""Types of command-line arguments."""

import argparse


def positive_int(text: str) -> int:
    """A number on the command line that counts something: 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no whole number above 0")
    return int(text)
