"""The list of bad input has a call of every public metric."""

import inspect

from fwdiff_lite import metrics
from tests.bad_input.metrics import CASES


def test_every_public_function_has_a_case_of_bad_input():
    called = {name for _, call, _ in CASES for name in call.__code__.co_names}
    functions = {name for name in metrics.__all__ if inspect.isfunction(getattr(metrics, name))}
    assert len(functions) > 30 and functions - called == set()
