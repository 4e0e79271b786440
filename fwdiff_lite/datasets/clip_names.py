"""Names of clips. They come from files that others wrote, and become names of files: a name must not lead elsewhere."""

import re
import unicodedata
from pathlib import PureWindowsPath
from typing import Any

from fwdiff_lite.datasets.text_files import shorten

MAX_NAME_BYTES = 255  # in UTF-8: no file system has longer names
CLIP_NAME_FORM = f"a name without '..', a root or control characters, of at most {MAX_NAME_BYTES} bytes"
# Control characters, halves of surrogate pairs, and separators of lines and paragraphs
FORBIDDEN_CATEGORIES = ("Cc", "Cs", "Zl", "Zp")
SEPARATORS = r"[/\\]"  # of folders, also on Windows


def is_clip_name(name: Any) -> bool:
    """Whether a value is the name of a clip: CLIP_NAME_FORM. It may have folders, such as train/a."""
    if not isinstance(name, str) or any(unicodedata.category(x) in FORBIDDEN_CATEGORIES for x in name):
        return False
    if len(name.encode()) > MAX_NAME_BYTES or PureWindowsPath(name).drive:
        return False
    return all(part not in ("", ".", "..") for part in re.split(SEPARATORS, name))


def check_clip_name(name: Any) -> None:
    """ValueError if a clip that is to be written has another name than CLIP_NAME_FORM."""
    if not is_clip_name(name):
        raise ValueError(f"the clip {shorten(str(name))} cannot be written: wanted {CLIP_NAME_FORM}")


def clip_file_name(name: Any) -> str:
    """The name of a clip, if it is safe and flat: the name of one file that is not hidden. ValueError otherwise."""
    check_clip_name(name)
    if re.search(SEPARATORS, name) or name.startswith("."):
        raise ValueError(
            f"the clip {shorten(name)} cannot be written as files of its name: wanted a name without a "
            "separator of folders and without a first dot; chunks (--to pixelsplat) keep such names"
        )
    return name
