"""Tensors of files that hold networks, whatever wrote the file. No code of a file is executed.

    read_network_file(path)     tensors by name, and the plain attributes of modules

Formats are told apart by content, not by the ending of the name: safetensors; torch.save, with its zip archive or
without; pickles of whole networks, as the PyTorch releases of StyleGAN2-ADA write them. Such a pickle holds the source
code of its classes. This reader keeps the tensors and the plain attributes of each module, and drops the source code.
"""

from __future__ import annotations

import argparse
import codecs
import io
import os
import pickle
import pickletools
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from fwdiff_lite.datasets.images import first_line
from fwdiff_lite.storage.files import DAMAGE_ERRORS

MAX_DEPTH = 32  # of dicts and modules inside of each other
MAX_PARTS = 100_000  # dicts, modules and tensors of a file; one that holds itself twice, many times over, has billions
MAX_NAME = 200  # characters of a name
# the magic number of torch.save without a zip archive, pickled with any protocol
LEGACY_TORCH = re.compile(rb"\x80.(\x95.{8})?\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19\.", re.DOTALL)
CONVERSION = "convert it where you trust it: torch.save(network.state_dict(), 'generator.pt')"
FOREIGN_CONTENT = (
    (rb"\s*<(!doctype|html|\?xml)", "is a web page: download the file itself, not the page that links to it"),
    (rb"version https://git-lfs", "is a pointer of Git LFS: fetch the file with git lfs pull"),
    (rb"\x89PNG|\xff\xd8\xff|GIF8|RIFF", "is a picture or a sound: give a file of weights"),
    (rb"\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf", "is compressed: unpack it first"),
    (rb"\x89HDF", "is an HDF5 file: give weights of PyTorch"),
    (rb".{257}ustar", "is a tar archive: unpack it first"),
)

Attributes = dict[str, Any]


@dataclass
class PickledModule:
    """A module of a pickled network: the name of its class, and its plain attributes, tensors and submodules."""

    class_name: str
    content: dict[str, Any] = field(default_factory=dict)

    def attributes(self) -> Attributes:
        """The plain attributes, and the name of the class."""
        plain = {key: x for key, x in self.content.items() if x is None or isinstance(x, (str, int, float))}
        return plain | {"class_name": self.class_name}


@dataclass
class NetworkFile:
    """Tensors by name, outer.inner for nested dicts and modules; plain attributes by the name of their module."""

    tensors: dict[str, Tensor]
    attributes: dict[str, Attributes]


def read_network_file(path: str | os.PathLike) -> NetworkFile:
    """All tensors of a file, on the CPU. See the module's docstring for the formats.

    ValueError, in one line, if the file is missing, is damaged, is no file of weights, or would run code.
    """
    content = _read_content(Path(path))
    if not isinstance(content, (dict, PickledModule)):
        raise ValueError(f"{path} holds a {type(content).__name__}: give a file that holds a dict of tensors")
    file = NetworkFile({}, {})
    for count, (name, x) in enumerate(_list_parts(path, content, "", MAX_DEPTH)):
        if count > MAX_PARTS:
            raise ValueError(f"{path} has more than {MAX_PARTS} dicts and tensors: give a dict of tensors")
        if isinstance(x, Tensor):
            file.tensors[name] = x
        elif isinstance(x, PickledModule):
            file.attributes[name] = x.attributes()
    return file


def printable(text: str) -> str:
    """A text from a file, for a message of one line: without control characters, and cut to MAX_NAME characters."""
    text = "".join(c if c.isprintable() else "?" for c in text[: MAX_NAME + 1])
    return text if len(text) <= MAX_NAME else f"{text[:MAX_NAME]}..."


def _read_content(path: Path) -> Any:
    """The dicts, tensors and modules of a file."""
    try:
        if path.is_dir():
            raise ValueError(f"{path} is a folder: give the file of weights in it")
        if path.exists() and not path.is_file():  # a pipe would wait for its writer
            raise ValueError(f"{path} is a device or a pipe: give a file")
        with path.open("rb") as file:
            start = file.read(512)
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist: check the path") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be opened: {error.strerror}") from None
    if not start:
        raise ValueError(f"{path} is empty: download it again")
    for pattern, reason in FOREIGN_CONTENT:
        if re.match(pattern, start, re.IGNORECASE | re.DOTALL):
            raise ValueError(f"{path} {reason}")
    try:
        if start[8:9] == b"{":
            return safetensors.torch.load_file(path)
        if start.startswith(b"PK"):
            _check_archive(path)
        if start.startswith(b"PK") or LEGACY_TORCH.match(start):
            # rosinality's checkpoints hold their command line's arguments; a Namespace runs no code
            # an open file: torch.load judges a path by its ending
            with torch.serialization.safe_globals([argparse.Namespace]), path.open("rb") as file:
                return torch.load(file, map_location="cpu", weights_only=True)
        with path.open("rb") as file:
            _check_memo(file)
            file.seek(0)
            return NetworkUnpickler(file).load()
    except ForeignGlobalError as error:
        raise ValueError(f"{path} was refused: {error}") from None
    except pickle.UnpicklingError as error:
        if match := re.search(r"GLOBAL (\S+) (was not|whose module)", str(error)):  # torch.load's words
            name = printable(match[1])
            raise ValueError(f"{path} was refused: loading it could run code ({name}); {CONVERSION}") from None
        # torch.load's first line is about its option weights_only, and says nothing of the file
        is_long = str(error).startswith("Weights only load failed")
        reason = type(error).__name__ if is_long else printable(first_line(error))
        raise ValueError(f"{path} cannot be read as tensors ({reason}): {_damage(path, start)}") from None
    except (*DAMAGE_ERRORS, AttributeError, AssertionError, safetensors.SafetensorError) as error:
        raise ValueError(f"{path} cannot be read as tensors ({type(error).__name__}): {_damage(path, start)}") from None


def _damage(path: Path, start: bytes) -> str:
    """The likely cause of a file that cannot be read."""
    if start[:1] == b"\x80" or start.startswith(b"PK") or start[8:9] == b"{":
        return f"check that the file is complete; if it is, {CONVERSION}"
    return "wanted weights that safetensors or torch.save wrote, or a pickle of StyleGAN2-ADA"


def _check_archive(path: Path) -> None:
    """ValueError unless torch.save wrote this zip archive."""
    if not zipfile.is_zipfile(path):
        return  # a damaged archive: torch.load says so
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any("/code/" in name for name in names):
        raise ForeignGlobalError(f"it is a program of TorchScript; {CONVERSION}")
    if not any(re.fullmatch(r"[^/]+/data\.pkl", name) for name in names):
        examples = printable(", ".join(names[:3])) or "no file"
        raise ForeignGlobalError(f"it is a zip archive without weights ({examples}); unpack it first")


def _check_memo(file: BinaryIO) -> None:
    """UnpicklingError if a pickle stores objects at numbers that no writer uses: a table of that size is allocated."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument > count:
            raise pickle.UnpicklingError(f"object {argument} of {count}")


def _list_parts(
    path: str | os.PathLike, content: Any, name: str, depth: int
) -> Iterator[tuple[str, Tensor | PickledModule | dict]]:
    """All tensors, modules and dicts inside of each other, by name."""
    yield name, content
    if isinstance(content, Tensor):
        return
    if not depth:
        raise ValueError(f"{path} has more than {MAX_DEPTH} dicts inside of each other: give a dict of tensors")
    if isinstance(content, PickledModule):
        for part in ("_parameters", "_buffers", "_modules"):
            if isinstance(content.content.get(part), dict):
                yield from _list_parts(path, content.content[part], name, depth - 1)
        return
    prefix = f"{name}." if name else ""
    for key, x in content.items():
        if isinstance(x, (Tensor, dict, PickledModule)):
            yield from _list_parts(path, x, printable(f"{prefix}{key}"), depth - 1)


# --- pickles of whole networks ------------------------------------------------------------------------------


class ForeignGlobalError(pickle.UnpicklingError):
    """A pickle asks for a function or a class that is not on the list."""


class PlainDict(dict):
    """A dict whose pickled attributes are dropped."""

    def __setstate__(self, state: Any) -> None:
        pass


@dataclass(frozen=True, slots=True)
class AllowedFunction:
    """A function that a pickle may call, and to which it cannot give attributes."""

    function: Callable[..., Any]

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("attributes for a function")


def _build_module(meta: dict[str, Any]) -> PickledModule:
    """The record of a module. Its source code (module_src) is dropped."""
    if not isinstance(meta, dict) or not isinstance(meta.get("state"), dict):
        raise pickle.UnpicklingError("a module without a state")
    return PickledModule(str(meta.get("class_name")), meta["state"])


def _load_storage(content: bytes) -> torch.storage.TypedStorage:
    """The numbers of a tensor, which torch.save wrote."""
    storage = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    if not isinstance(storage, torch.storage.TypedStorage):
        raise pickle.UnpicklingError("a tensor without numbers")
    return storage


def _rebuild_tensor(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    """A tensor over a storage. UnpicklingError where the storage does not hold all of its elements."""
    if not isinstance(storage, torch.storage.TypedStorage) or len(size) != len(stride):
        raise pickle.UnpicklingError("a tensor without numbers")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    numbers = torch.tensor([], dtype=storage.dtype).set_(storage._untyped_storage)
    if min((offset, *size, *stride)) < 0 or prod(size) > len(numbers) or (prod(size) and last >= len(numbers)):
        raise pickle.UnpicklingError(f"a tensor of shape {tuple(size)} in a storage of {len(numbers)} numbers")
    return numbers.as_strided(size, stride, offset)


def _rebuild_parameter(data: Any, *_: Any) -> Tensor:
    """A parameter's tensor."""
    if not isinstance(data, Tensor):
        raise pickle.UnpicklingError("a parameter without a tensor")
    return data


def _encode(text: str, encoding: str) -> bytes:
    """Bytes as protocols 0 to 2 write them."""
    return codecs.encode(text, "latin1") if encoding == "latin1" else b""


class NumberType:
    """The type of a number of NumPy: the attributes of StyleGAN2-ADA's layers are such numbers."""

    def __init__(self, name: str, *_: Any):
        if not isinstance(name, str) or not re.fullmatch(r"[fiu][1248]|b1", name):
            raise pickle.UnpicklingError("a type of NumPy that is no number")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple) -> None:
        if state[1] == ">":
            self.dtype = self.dtype.newbyteorder(">")


class DroppedArray:
    """An array of NumPy, whose numbers are dropped: layers of StyleGAN3 have sizes that are arrays."""

    def __init__(self, *_: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _load_number(number_type: Any, content: bytes) -> int | float:
    """A number of NumPy."""
    if not isinstance(number_type, NumberType) or not isinstance(content, bytes):
        raise pickle.UnpicklingError("a number without a type")
    (number,) = np.frombuffer(content, number_type.dtype).tolist()
    return number


def _reconstruct(new_class: Any, base: Any, state: Any) -> PlainDict:
    """A dict of a class of its own, as protocols 0 and 1 write it."""
    if new_class is not PlainDict:
        raise pickle.UnpicklingError("an object of another class than a dict")
    return PlainDict(state)


ALLOWED_CLASSES = {
    ("dnnlib.util", "EasyDict"): PlainDict,
    ("collections", "OrderedDict"): PlainDict,
    ("builtins", "dict"): PlainDict,
    ("__builtin__", "dict"): PlainDict,
    ("builtins", "set"): list,
    ("__builtin__", "set"): list,
    ("numpy", "dtype"): NumberType,
    ("numpy", "ndarray"): DroppedArray,
}
ALLOWED_FUNCTIONS = {
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _build_module,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch.storage", "_load_from_bytes"): _load_storage,
    ("numpy.core.multiarray", "scalar"): _load_number,
    ("numpy._core.multiarray", "scalar"): _load_number,
    ("numpy.core.multiarray", "_reconstruct"): DroppedArray,
    ("numpy._core.multiarray", "_reconstruct"): DroppedArray,
    ("_codecs", "encode"): _encode,
    ("copyreg", "_reconstructor"): _reconstruct,
    ("copy_reg", "_reconstructor"): _reconstruct,
}


class NetworkUnpickler(pickle.Unpickler):
    """Unpickles modules as records. Only ALLOWED_CLASSES and ALLOWED_FUNCTIONS are called."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in ALLOWED_CLASSES:
            return ALLOWED_CLASSES[module, name]
        if (module, name) in ALLOWED_FUNCTIONS:
            return AllowedFunction(ALLOWED_FUNCTIONS[module, name])
        if module.startswith("dnnlib.tflib"):
            raise ForeignGlobalError(
                "it holds a network of TensorFlow: convert it with legacy.py of the PyTorch release of StyleGAN2-ADA"
            )
        raise ForeignGlobalError(f"loading it could run code ({printable(f'{module}.{name}')}); {CONVERSION}")
