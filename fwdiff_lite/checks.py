"""Checks of arguments, each with an error of one line: the argument's name, the given value, the wanted one.

The checks of values read a number from the tensor's device. So they are for functions that run once or return numbers;
`check_values_on_cpu` is for the loops of training and sampling. Under torch.compile no value is checked.
"""

import math
from collections.abc import Callable, Sequence
from numbers import Integral, Real

import torch
from torch import Generator, Tensor


def format_shape(x: Tensor) -> str:
    """The shape of a tensor, for an error message."""
    return str(tuple(x.shape))


def abbreviate(items: Sequence) -> str:
    """The first three items of a list, for an error message."""
    return ", ".join(str(item)[:120] for item in items[:3]) + (", ..." if len(items) > 3 else "")


def check_finite(**tensors: Tensor) -> None:
    """ValueError, with the argument's name, if a tensor is empty or has a value that is not finite."""
    if torch.compiler.is_compiling():
        return
    for name, x in tensors.items():
        if not isinstance(x, Tensor):
            raise ValueError(f"{name} is a {type(x).__name__}, wanted a tensor: convert it with torch.as_tensor")
        if x.numel() == 0:
            raise ValueError(f"{name} is empty (shape {format_shape(x)}): give at least one value")
        num_invalid = int((~torch.isfinite(x)).sum()) if x.is_floating_point() else 0
        if num_invalid:
            raise ValueError(f"{name} holds {num_invalid} NaN or infinite values: find where they come from first")


def check_float(**tensors: Tensor) -> None:
    """ValueError as of check_finite, or if a tensor has no floating type: differences of uint8 would wrap around."""
    check_finite(**tensors)
    for name, x in tensors.items():
        _check_floating_type(name, x)


def _check_floating_type(name: str, x: Tensor) -> None:
    if not x.is_floating_point():
        remedy = "convert it with .float()"
        if x.is_complex():
            remedy = "give its real and imaginary part, torch.view_as_real"
        raise ValueError(f"{name} has the type {x.dtype}, wanted a floating type: {remedy}")


def check_integers(**tensors: Tensor) -> None:
    """ValueError if a tensor is empty or does not have an integer type."""
    check_finite(**tensors)
    for name, x in tensors.items():
        if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
            raise ValueError(f"{name} has the type {x.dtype}, wanted integers: convert it with .long()")


def check_distance_types(**tensors: Tensor) -> None:
    """ValueError unless all tensors are float32, or all float64: torch.cdist and matrix products take no others."""
    types = {x.dtype for x in tensors.values()}
    if types not in ({torch.float32}, {torch.float64}):
        given = ", ".join(f"{name} of {x.dtype}" for name, x in tensors.items())
        raise ValueError(f"got {given}, wanted float32 or float64 for all: convert them with .float()")


def check_shape(name: str, x: Tensor, shape: tuple[int, ...], /, **others: Tensor) -> None:
    """ValueError if `x` does not have that shape, which follows from the other arguments, if there are any."""
    if tuple(x.shape) != tuple(shape):
        fit = " and ".join(f"{other} {format_shape(y)}" for other, y in others.items())
        given = f"{name} has shape {format_shape(x)}, wanted {tuple(shape)}"
        raise ValueError(f"{given} to fit {fit}" if fit else given)


def check_last_sizes(name: str, x: Tensor, *sizes: int) -> None:
    """ValueError if the last axes of `x` do not have these sizes, or if it has no floating type."""
    if tuple(x.shape[x.ndim - len(sizes) :]) != sizes or x.ndim < len(sizes):
        raise ValueError(f"{name} has shape {format_shape(x)}, wanted (..., {', '.join(map(str, sizes))})")
    _check_floating_type(name, x)


def check_values_on_cpu(invalid: Callable[[], Tensor], message: str) -> None:
    """ValueError with this message if `invalid()` is True anywhere; nothing is checked on a GPU or in compiled code.

    A GPU would have to wait for the answer at every training step.
    """
    if not torch.compiler.is_compiling() and (where := invalid()).device.type == "cpu" and bool(where.any()):
        raise ValueError(message)


def check_count(minimum: int = 1, **counts: int) -> None:
    """ValueError, with the argument's name, if a count is not a whole number of at least `minimum`."""
    if torch.compiler.is_compiling():
        return
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, Integral) or count < minimum:
            raise ValueError(f"got {name} = {count!r}, wanted a whole number of at least {minimum}")


def _is_finite_number(number: object) -> bool:
    """Whether it is a real number, but no bool, that is finite as a float."""
    try:
        return isinstance(number, Real) and not isinstance(number, bool) and math.isfinite(number)
    except OverflowError:  # of an integer beyond all floats
        return False


def check_positive(**numbers: float) -> None:
    """ValueError, with the argument's name, if a number is not above 0 and finite."""
    if torch.compiler.is_compiling():
        return
    for name, number in numbers.items():
        if not (_is_finite_number(number) and number > 0):
            raise ValueError(f"got {name} = {number}, wanted a finite number above 0")


def check_interval(low: float, high: float, **numbers: float) -> None:
    """ValueError, with the argument's name, if a number is not finite, or not from `low` to `high`, both included."""
    if torch.compiler.is_compiling():
        return
    for name, number in numbers.items():
        if not (_is_finite_number(number) and low <= number <= high):
            wanted = (
                f"finite number of at least {low:.3g}" if high == math.inf else f"number from {low:.3g} to {high:.3g}"
            )
            raise ValueError(f"got {name} = {number!r}, wanted a {wanted}")


def check_generator(generator: Generator) -> None:
    """ValueError unless the argument is a torch.Generator."""
    if not isinstance(generator, Generator):
        raise ValueError(f"generator is a {type(generator).__name__}, wanted a torch.Generator: every draw needs one")
