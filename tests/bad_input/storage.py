"""Bad input to fwdiff_lite.storage: names, manifests, hostile checkpoints and unwritable files."""

import hashlib
import io
import json
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

from fwdiff_lite.storage import checkpoints, files
from fwdiff_lite.storage.checkpoints import load_pretrained, load_recorded, save_pretrained, save_recorded

WEIGHTS = {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}
NAN, INFINITY = float("nan"), float("inf")


def in_folder(call):
    """A call with a temporary folder as its argument."""

    def run():
        with tempfile.TemporaryDirectory() as folder:
            call(Path(folder))

    return run


def entry(content: bytes) -> dict:
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content), "licence": "MIT"}


def hostile(name: str, content: bytes, message: str | None):
    """A checkpoint whose manifest entry fits its content."""
    suffix, load = ("npz", load_recorded) if name.startswith("npz") else ("safetensors", load_pretrained)

    def call(folder: Path):
        (folder / f"x.{suffix}").write_bytes(content)
        (folder / "manifest.toml").write_text(checkpoints.manifest_text({f"x.{suffix}": entry(content)}))
        load("x", folder)

    return f"checkpoint {name}", in_folder(call), message


def manifest(name: str, text: bytes | str, message: str | None):
    def call(folder: Path):
        (folder / "manifest.toml").write_bytes(text.encode() if isinstance(text, str) else text)
        load_pretrained("x", folder)

    return f"manifest {name}", in_folder(call), message


def header(fields: dict | list | str, data: bytes = b"") -> bytes:
    """A safetensors file with any header."""
    text = json.dumps(fields).encode()
    return len(text).to_bytes(8, "little") + text + data


def npz(**arrays) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def npz_member(content: bytes, name: str = "x.npy") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(name, content)
    return stream.getvalue()


def npz_bomb() -> bytes:
    """Arrays whose directory declares 4 GB."""
    content = bytearray(npz(x=np.zeros(9)))
    size = content.rindex(b"PK\1\2") + 24
    content[size : size + 4] = (4_000_000_000).to_bytes(4, "little")
    return bytes(content)


def npy_header(shape: str, dtype: str = "<f8") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text


def weights(name: str, change: dict, message: str | None):
    def call():
        given = {key: value for key, value in (WEIGHTS | change).items() if value is not None}
        checkpoints.load_weights(torch.nn.Linear(3, 2), given, "the checkpoint")

    return f"load_weights {name}", call, message


def unwritable(folder: Path) -> None:
    (folder / "file").touch()
    files.write_text(folder / "file" / "x.txt", "text")


def json_file(name: str, text: bytes, message: str | None):
    def call(folder: Path):
        (folder / "x.json").write_bytes(text)
        files.read_json(folder / "x.json")

    return f"read_json {name}", in_folder(call), message


TENSOR = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
NAMES = ["../x", "/etc/x", "a/b", "a\\b", "", ".", "..", ".x", "x\0", "x\n", "x y", "x" * 300, "ü"]
DIGEST = "a" * 64
CASES = [
    *(
        (f"load_pretrained {name[:9]!r}", lambda name=name: load_pretrained(name), "is not a name of a")
        for name in NAMES
    ),
    *(
        (f"load_recorded {name[:9]!r}", lambda name=name: load_recorded(name), "is not a name of a")
        for name in NAMES[:3]
    ),
    *(
        (f"save {name!r}", in_folder(lambda f, name=name: save_pretrained(name, WEIGHTS, f)), "is not a name of a")
        for name in NAMES[:4]
    ),
    ("save_recorded ../x", in_folder(lambda f: save_recorded("../x", {"a": np.ones(1)}, f)), "is not a name of a"),
    ("no manifest", in_folder(lambda f: load_pretrained("x", f)), "no checkpoints in .* they come with the repository"),
    ("no folder", lambda: load_recorded("x", Path("/nowhere")), "there are no checkpoints in /nowhere: they come with"),
    manifest("empty", "", "unknown checkpoint x.safetensors: .*manifest.toml lists none"),
    manifest("broken", "[x\nbytes = ", "manifest.toml is no TOML"),
    manifest("twice", "[a]\n[a]\n", "manifest.toml is no TOML"),
    manifest("binary", b"\xff\xfe", "manifest.toml cannot be read: it is not text in UTF-8"),
    manifest("deep", "a = " + "[" * 5000, "manifest.toml is no TOML"),
    manifest("number", '"x.safetensors" = 3\n', "has x.safetensors = 3: wanted a table of bytes, sha256"),
    manifest("outside", f'["../x.npz"]\nbytes = 1\nsha256 = "{DIGEST}"\n', "'../x.npz' is not a name of a checkpoint"),
    manifest("absolute", f'["/x.npz"]\nbytes = 1\nsha256 = "{DIGEST}"\n', "'/x.npz' is not a name of a checkpoint"),
    manifest("other suffix", f'["x.pt"]\nbytes = 1\nsha256 = "{DIGEST}"\n', "'x.pt' is not a name of a checkpoint"),
    manifest(
        "no bytes", f'["x.safetensors"]\nsha256 = "{DIGEST}"\n', "has no bytes for x.safetensors: wanted the size"
    ),
    manifest("text as bytes", f'["x.npz"]\nbytes = "1"\nsha256 = "{DIGEST}"\n', "has no bytes for x.npz: wanted the"),
    manifest("negative bytes", f'["x.npz"]\nbytes = -1\nsha256 = "{DIGEST}"\n', "has no bytes for x.npz: wanted the"),
    manifest("no hash", '["x.safetensors"]\nbytes = 1\n', "has no sha256 for x.safetensors: wanted 64 hexadecimal"),
    manifest("short hash", '["x.safetensors"]\nbytes = 1\nsha256 = "ab"\n', "has no sha256 for x.safetensors"),
    manifest("no file", f'["x.safetensors"]\nbytes = 1\nsha256 = "{DIGEST}"\n', "x.safetensors is missing: fetch it"),
    (
        "manifest that is a folder",
        in_folder(lambda f: (f / "manifest.toml").mkdir() or load_pretrained("x", f)),
        "manifest.toml cannot be read: Is a directory",
    ),
    hostile("empty", b"", "x.safetensors is no safetensors file"),
    hostile("text", b"not a checkpoint at all", "x.safetensors is no safetensors file"),
    hostile("pickle", b"\x80\x04cposix\nsystem\n(S'true'\ntR.", "x.safetensors is no safetensors file"),
    hostile("zip", npz(x=np.zeros(2)), "x.safetensors is no safetensors file"),
    hostile("truncated", save(WEIGHTS)[:-4], "x.safetensors is no safetensors file"),
    hostile("longer", save(WEIGHTS) + b"xxxx", "x.safetensors is no safetensors file"),
    hostile("huge header", (2**62).to_bytes(8, "little") + b"{}", "x.safetensors is no safetensors file"),
    hostile("no JSON", (4).to_bytes(8, "little") + b"\xff\xfe{}", "x.safetensors is no safetensors file"),
    hostile("list", header([]), "x.safetensors is no safetensors file"),
    hostile("no offsets", header({"x": {"dtype": "F32", "shape": [2]}}, bytes(8)), "is no safetensors file"),
    hostile("wrong offsets", header({"x": TENSOR | {"data_offsets": [0, 9999]}}, bytes(8)), "is no safetensors file"),
    hostile("huge shape", header({"x": TENSOR | {"shape": [2**40, 2**40]}}, bytes(8)), "is no safetensors file"),
    hostile("negative shape", header({"x": TENSOR | {"shape": [-2]}}, bytes(8)), "is no safetensors file"),
    hostile("unknown type", header({"x": TENSOR | {"dtype": "F99"}}, bytes(8)), "is no safetensors file"),
    hostile("overlap", header({"x": TENSOR, "y": TENSOR}, bytes(8)), "is no safetensors file"),
    hostile("metadata of numbers", header({"__metadata__": {"a": 1}, "x": TENSOR}, bytes(8)), "is no safetensors file"),
    hostile("metadata of text", header({"__metadata__": {"a": "b"}, "x": TENSOR}, bytes(8)), None),
    hostile("NaN", save({"x": torch.tensor([1, NAN])}), "x.safetensors has a NaN or infinity in x: fetch or train it"),
    hostile("infinity", save({"x": torch.tensor([INFINITY])}), "x.safetensors has a NaN or infinity in x"),
    hostile("1e300", save({"x": torch.tensor([1e300], dtype=torch.float64)}), "x.safetensors has a NaN or infinity"),
    hostile("8 bits", save({"x": torch.ones(1).to(torch.float8_e5m2)}), "has x of type torch.float8_e5m2: wanted real"),
    hostile("npz empty", b"", "x.npz is no file of arrays"),
    hostile("npz text", b"not an archive", "x.npz is no file of arrays"),
    hostile("npz npy", npy_header("(1,)") + bytes(8), "x.npz is no file of arrays"),
    hostile("npz truncated", npz(x=np.zeros(9))[:-9], "x.npz is no file of arrays"),
    hostile("npz altered", npz(x=np.zeros(9)).replace(bytes(64), b"x" * 64, 1), "x.npz is no file of arrays"),
    hostile("npz pickle", npz(x=np.array([{}])), "x.npz is no file of arrays: Object arrays cannot be loaded"),
    hostile(
        "npz pickle alone",
        npz_member(b"\x80\x04cposix\nsystem\n(S'true'\ntR."),
        "x.npz has members that are no arrays: x",
    ),
    hostile("npz other member", npz_member(b"text", "x.txt"), "x.npz has members that are no arrays: x.txt"),
    hostile("npz short", npz_member(npy_header("(9,)") + bytes(8)), "x.npz is no file of arrays"),
    hostile("npz huge shape", npz_member(npy_header("(10**15,)") + bytes(8)), "x.npz is no file of arrays"),
    hostile("npz huge array", npz_member(npy_header("(1000000000000000,)") + bytes(8)), "x.npz is no file of arrays"),
    hostile("npz shape of text", npz_member(npy_header("('a',)") + bytes(8)), "x.npz is no file of arrays"),
    hostile("npz unknown type", npz_member(npy_header("(1,)", "<z9") + bytes(8)), "x.npz is no file of arrays"),
    hostile("npz bomb", npz_bomb(), "x.npz is no file of arrays: its arrays have 4000 MB, wanted at most 500"),
    hostile("npz NaN", npz(x=np.array([NAN])), None),
    weights("that fit", {}, None),
    weights("in half precision", {"weight": torch.ones(2, 3).half()}, None),
    weights("missing", {"bias": None}, r"is of another network: it lacks 1 tensors \(bias\)"),
    weights("surplus", {"other": torch.ones(1)}, r"is of another network: it has the unknown 1 tensors \(other\)"),
    weights("shape", {"weight": torch.ones(3, 2)}, r"has weight of shape \(3, 2\): wanted \(2, 3\)"),
    weights("scalar", {"bias": torch.tensor(0.0)}, r"has bias of shape \(\): wanted \(2,\)"),
    weights(
        "integers", {"bias": torch.zeros(2, dtype=torch.long)}, "has bias of type torch.int64: wanted torch.float32"
    ),
    weights("complex", {"bias": torch.zeros(2) * 1j}, "has bias of type torch.complex64: wanted torch.float32"),
    weights("NaN", {"bias": torch.tensor([0, NAN])}, "the checkpoint has a NaN or infinity in bias: train it again"),
    weights("infinity", {"weight": torch.full((2, 3), INFINITY)}, "has a NaN or infinity in weight"),
    weights("no tensor", {"bias": [0.0, 0.0]}, "has bias of type list: wanted a tensor"),
    ("unwritable folder", in_folder(unwritable), "file/x.txt cannot be written: "),
    (
        "path is a folder",
        in_folder(lambda f: (f / "x").mkdir() or files.write_text(f / "x", "a")),
        "x cannot be written",
    ),
    ("name too long", in_folder(lambda f: files.write_text(f / ("x" * 300), "a")), "cannot be written: File name too"),
    ("write_json NaN", in_folder(lambda f: files.write_json(f / "x.json", {"a": NAN})), "JSON"),
    json_file("broken", b'{"a": ', "x.json is not JSON .*: delete it or restore it"),
    json_file("list", b"[1]", "x.json holds a list: wanted a JSON object"),
    json_file("binary", b"\xff\xfe", "x.json cannot be read: it is not text in UTF-8"),
    json_file("deep", b"[" * 100_000, "x.json is not JSON"),
]
