"""Bad input to public functions: each call raises a ValueError of one line that matches its message.

The cases of an area stand in tests/bad_input/AREA.py as CASES: a name, a call without arguments, and a regular
expression for the message. A call that is harmless has the expression None: it must return.
"""

import importlib
import pkgutil

import pytest

from tests import bad_input

AREAS = [module.name for module in pkgutil.iter_modules(bad_input.__path__)]
CASES = [
    pytest.param(call, message, id=f"{area}-{name}")
    for area in AREAS
    for name, call, message in importlib.import_module(f"tests.bad_input.{area}").CASES
]


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize(("call", "message"), CASES)
def test_bad_input_is_a_one_line_error(call, message):
    if message is None:
        call()
        return
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
