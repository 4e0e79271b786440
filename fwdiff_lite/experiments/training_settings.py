"""The settings of a training, which a resumed training must share: NAME.config.json beside NAME.state."""

import json
from pathlib import Path
from typing import Any

from fwdiff_lite.devices import is_main_process
from fwdiff_lite.storage.files import read_json, write_json


def check_settings(path: Path, settings: dict[str, Any]) -> None:
    """Writes the settings of a training beside its state; ValueError if the state has others.

    path: of the weights; settings: JSON values, "options" among them
    """
    config_path, state_path = path.with_suffix(".config.json"), path.with_suffix(".state")
    settings = json.loads(json.dumps(settings, sort_keys=True))  # as in the file: no tuples
    if state_path.exists() and (previous := read_json(config_path)) != settings:
        was, now = (_flat_settings(x) for x in (previous, settings))
        changed = [f"{key} {was.get(key)}, not {now.get(key)}" for key in was | now if was.get(key) != now.get(key)]
        raise ValueError(f"{state_path} was trained with {'; '.join(changed)}: delete it, or name another --out")
    if is_main_process():
        write_json(config_path, settings)


def _flat_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a training and its options, by their names."""
    return {key: value for key, value in settings.items() if key != "options"} | settings.get("options", {})
