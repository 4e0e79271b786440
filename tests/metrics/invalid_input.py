"""Invalid arguments of metrics, and checks of their errors."""

import math
from collections.abc import Callable
from types import ModuleType

import torch

X = torch.zeros(4, 3)
X_NAN = torch.full((4, 3), math.nan)
X_EMPTY = torch.zeros(0, 3)
SAMPLES = torch.zeros(4, 5, 3)
HALF = torch.full((4, 2), 0.5)
LABELS = torch.zeros(4, dtype=torch.long)


def is_one_line(error: ValueError) -> bool:
    return "\n" not in str(error) and len(str(error)) < 160


def public_functions_without_case(module: ModuleType, cases: dict[str, tuple[Callable, str]]) -> set[str]:
    """The public functions of a module that no case calls."""
    functions = {name for name, f in vars(module).items() if getattr(f, "__module__", "") == module.__name__}
    called = {name for call, _ in cases.values() for name in call.__code__.co_names}
    return {name for name in functions if name[0].islower()} - called
