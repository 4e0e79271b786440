"""Text and JSON that people and other programs wrote. Errors name the file, and are one line."""

import json
from pathlib import Path

from fwdiff_lite.datasets.images import first_line

MAX_TEXT_BYTES = 500_000_000


def shorten(text: str, length: int = 60) -> str:
    """A text in quotes, on one line and of limited length, for an error message."""
    return repr(text) if len(text) <= length else f"{text[:length]!r}... ({len(text):,} characters)"


def is_timestamp(word: str) -> bool:
    """Whether a word is a whole number of microseconds, in ASCII digits."""
    return word.isascii() and word.isdecimal() and len(word) <= 18


def parse_number(word: str) -> float:
    """The value of a decimal number in ASCII.

    ValueError, whose message lacks the file's name, if the word is not such a number.
    """
    try:
        if word.isascii() and "_" not in word:  # Python reads 1_000 and digits of other scripts too
            return float(word)
    except ValueError:
        pass
    raise ValueError(f"has {shorten(word)}, which is not a number")


def read_lines(text_file: Path) -> list[str]:
    """The lines of a text file. ValueError, with the file's name, if it cannot be read."""
    try:
        if (size := text_file.stat().st_size) > MAX_TEXT_BYTES:
            raise ValueError(f"it has {size / 1e6:.0f} MB, wanted at most {MAX_TEXT_BYTES // 1_000_000}")
        return text_file.read_text(encoding="utf-8-sig").rstrip().split("\n")
    except OSError as error:
        raise ValueError(f"{text_file} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{text_file} cannot be read: {first_line(error)}") from None


def read_json_object(path: Path) -> dict:
    """The content of a file of JSON, with or without a byte order mark.

    ValueError, with the file's name and the line, if it cannot be read, is no JSON or no object.
    """
    try:
        content = json.loads("\n".join(read_lines(path)))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}): correct it") from None
    except RecursionError:
        raise ValueError(f"{path} is not JSON that can be read: its lists are nested too deeply") from None
    except ValueError as error:  # of read_lines, or a number of thousands of digits
        text = first_line(error)
        raise ValueError(text if text.startswith(str(path)) else f"{path} cannot be read: {text}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}: wanted a JSON object, {{...}}")
    return content
