"""Files of networks: hostile, damaged and foreign ones are refused in one line, and none of their code runs."""

import os
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from stylegan2_reference import (
    PersistentModule,
    ada_modules,
    ada_state_dict,
    ema_state_dict,
    persistent_generator,
    write_ada_pickle,
)

from fwdiff_lite.problems.gan_inversion import network_files
from fwdiff_lite.problems.gan_inversion.network_files import read_network_file
from fwdiff_lite.problems.gan_inversion.stylegan2_weights import load_published_generator

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


class CodeOnLoad:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def refusal_message(path) -> str:
    with pytest.raises(ValueError) as error:
        load_published_generator(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_pickles_of_every_protocol_are_read(tmp_path, protocol):
    path, state = tmp_path / "network.pkl", ada_state_dict(8)
    write_ada_pickle(path, state, protocol=protocol)
    file = read_network_file(path)
    for key, x in state.items():
        assert torch.equal(file.tensors[f"G_ema.{key}"], x), key
    assert file.attributes["G_ema.synthesis.b4.conv1"]["class_name"] == "SynthesisLayer"
    assert not any("module_src" in attributes for attributes in file.attributes.values())


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_code_in_a_pickle_is_refused_and_does_not_run(tmp_path, protocol):
    created_folder, path = tmp_path / "created_folder", tmp_path / "network.pkl"
    name = os.mkdir.__module__
    for content in (
        lambda: write_ada_pickle(path, ada_state_dict(8), protocol=protocol, more=CodeOnLoad(created_folder)),
        lambda: path.write_bytes(pickle.dumps(CodeOnLoad(created_folder), protocol=protocol)),
        lambda: torch.save(ada_state_dict() | {"more": CodeOnLoad(created_folder)}, path),
        lambda: torch.save(
            ada_state_dict() | {"more": CodeOnLoad(created_folder)}, path, _use_new_zipfile_serialization=False
        ),
    ):
        content()
        message = refusal_message(path)
        assert f"was refused: loading it could run code ({name}.mkdir)" in message
        assert "convert it where you trust it: torch.save(network.state_dict(), 'generator.pt')" in message
        assert not created_folder.exists()
    path.write_bytes(pickle.dumps(CodeOnLoad(created_folder), protocol=protocol))
    pickle.loads(path.read_bytes())
    assert created_folder.exists(), "control: pickle runs the code"


def opcodes(*parts: bytes) -> bytes:
    return b"\x80\x04" + b"".join(parts) + b"."


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


def short_bytes(value: bytes) -> bytes:
    return b"C" + bytes([len(value)]) + value


def call(module: str, name: str, *arguments: bytes) -> bytes:
    return text(module) + text(name) + b"\x93(" + b"".join(arguments) + b"tR"


def number(value: int) -> bytes:
    return b"\x8a\x08" + value.to_bytes(8, "little", signed=True)


def storage(n: int) -> bytes:
    with ada_modules():
        content = pickle.dumps(torch.zeros(n), protocol=4)
    start = content.index(b"B", content.index(b"_load_from_bytes"))
    size = int.from_bytes(content[start + 1 : start + 5], "little")
    return call("torch.storage", "_load_from_bytes", content[start : start + 5 + size])


def tensor(n: int, offset: int, size: int, stride: int) -> bytes:
    shape = (number(size) + b"\x85", number(stride) + b"\x85")
    return call("torch._utils", "_rebuild_tensor_v2", storage(n), number(offset), *shape)


def numpy_number(number_type: str, content: bytes = bytes(8)) -> bytes:
    number_type = call("numpy", "dtype", text(number_type), b"\x89", b"\x88")
    return call("numpy._core.multiarray", "scalar", number_type, short_bytes(content))


ALLOWED_ONLY = {  # name: (a pickle that calls nothing but what is allowed, its message)
    "a tensor beyond its storage": (tensor(3, 0, 5, 1), "a tensor of shape (5,) in a storage of 3 numbers"),
    "a tensor repeated without end": (tensor(3, 0, 10**12, 0), "in a storage of 3 numbers"),
    "a negative offset": (tensor(3, -1, 2, 1), "a tensor of shape (2,) in a storage of 3 numbers"),
    "a tensor of a dict": (call("torch._utils", "_rebuild_tensor_v2", b"}", number(0), b")", b")"), "a tensor without"),
    "a parameter of a string": (call("torch._utils", "_rebuild_parameter", text("x")), "a parameter without a tensor"),
    "a storage of other bytes": (
        call("torch.storage", "_load_from_bytes", short_bytes(b"abc")),
        "cannot be read as tensors",
    ),
    "code inside of a storage": (
        call("torch.storage", "_load_from_bytes", short_bytes(b"\x80\x02cposix\nmkdir\n(X\x01\0\0\0xtR.")),
        "could run code (posix.mkdir)",
    ),
    "a module without a state": (
        call("torch_utils.persistence", "_reconstruct_persistent_obj", b"}"),
        "a module without a state",
    ),
    "a module that is a number": (
        call("torch_utils.persistence", "_reconstruct_persistent_obj", number(3)),
        "a module without a state",
    ),
    "a persistent id": (text("x") + b"Q", "cannot be read as tensors"),
    "an absurd size": (b"\x8e" + (2**62).to_bytes(8, "little") + b"abc", "check that the file is complete"),
    "a truncated pickle": (b"}" + text("synthesis"), "check that the file is complete"),
    "attributes of a function": (
        text("torch.storage") + text("_load_from_bytes") + b"\x93}" + text("__code__") + text("x") + b"sb",
        "attributes for a function",
    ),
    "attributes of a class": (
        text("collections") + text("OrderedDict") + b"\x93N}" + text("get") + text("x") + b"s\x86b",
        "cannot be read as tensors",
    ),
    "an attribute of an allowed function": (
        text("torch.storage") + text("_load_from_bytes.__globals__") + b"\x93",
        "could run",
    ),
    "an imported name": (text("torch.storage") + text("os.system") + b"\x93", "(torch.storage.os.system)"),
    "an extension": (b"\x82\x01", "cannot be read as tensors"),
    "a dict in itself": (b"}\x94" + text("x") + b"h\x00s", "more than 32 dicts inside of each other"),
    "no dict": (b"]", "holds a list: give a file that holds a dict of tensors"),
    "a network of TensorFlow": (
        text("dnnlib.tflib.network") + text("Network") + b"\x93",
        "it holds a network of TensorFlow: convert it with legacy.py",
    ),
    "a whole module of PyTorch": (
        text("torch.nn.modules.linear") + text("Linear") + b"\x93",
        "could run code (torch.nn.modules.linear.Linear); convert it where you trust it",
    ),
}


@pytest.mark.parametrize("name", ALLOWED_ONLY)
def test_hostile_and_broken_pickles(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content, message = ALLOWED_ONLY[name]
    path = tmp_path / "network.pkl"
    path.write_bytes(opcodes(content) if "truncated" not in name else opcodes(content)[:-1])
    assert message in refusal_message(path)
    assert not (tmp_path / "x").exists()
    assert "__code__" not in vars(network_files._load_storage) and network_files.PlainDict.get is dict.get


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "is empty: download it again"),
        (b"<!DOCTYPE html><html><body>Quota exceeded</body></html>", "is a web page: download the file itself"),
        (b"\n  <HTML>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "is a pointer of Git LFS: fetch the file with"),
        (b"\x89PNG\r\n\x1a\n" + bytes(60), "is a picture or a sound: give a file of weights"),
        (b"\x1f\x8b\x08\x00" + bytes(60), "is compressed: unpack it first"),
        (b"\x89HDF\r\n\x1a\n" + bytes(60), "is an HDF5 file: give weights of PyTorch"),
        (b"a text, maybe", "wanted weights that safetensors or torch.save wrote, or a pickle of StyleGAN2-ADA"),
        (b"PK\x03\x04" + bytes(60), "check that the file is complete"),
        ((2**60).to_bytes(8, "little") + b"{" + bytes(60), "check that the file is complete"),
    ],
)
@pytest.mark.parametrize("ending", ["pkl", "safetensors"])
def test_foreign_files_get_their_own_reason(tmp_path, content, message, ending):
    path = tmp_path / f"generator.{ending}"
    path.write_bytes(content)
    assert message in refusal_message(path)


def test_other_things_than_files(tmp_path):
    assert "does not exist: check the path" in refusal_message(tmp_path / "none.pt")
    assert "is a folder: give the file of weights in it" in refusal_message(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "is a device or a pipe: give a file" in refusal_message(tmp_path / "pipe")
    assert "cannot be opened: File name too long" in refusal_message(tmp_path / (300 * "x"))
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        archive.writestr("a.png", b"")
    assert "it is a zip archive without weights (a.png); unpack it first" in refusal_message(tmp_path / "pictures.zip")


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "generator.pt"
    torch.save(ada_state_dict(), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    message = refusal_message(path)
    assert "cannot be read as tensors" in message and "check that the file is complete" in message
    write_ada_pickle(path, ada_state_dict(8))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "check that the file is complete" in refusal_message(path)
    torch.save([torch.zeros(1)], path)
    assert "holds a list: give a file that holds a dict of tensors" in refusal_message(path)
    torch.save({"layer.weight": torch.zeros(1), 3: torch.zeros(1)}, path)
    message = refusal_message(path)
    assert "is no StyleGAN2 generator: no synthesis.b4.const, no input.input, but 3, layer.weight" in message


@pytest.mark.parametrize(
    "content, message",
    [
        ({"synthesis.input.freqs": torch.zeros(2)}, "holds a StyleGAN3 generator: only StyleGAN2 is supported"),
        ({"g_synthesis.blocks.4x4.const": torch.zeros(2)}, "generator of the first version: only StyleGAN2"),
        ({"b4.out.weight": torch.zeros(2)}, "holds a discriminator and no generator"),
        ({"d": {"final_linear.1.weight": torch.zeros(2)}}, "holds a discriminator and no generator"),
    ],
)
def test_other_networks_are_named(tmp_path, content, message):
    torch.save(content, tmp_path / "network.pt")
    assert message in refusal_message(tmp_path / "network.pt")


@pytest.mark.parametrize("protocol", range(5))
def test_pickles_of_stylegan3_are_named(tmp_path, protocol):
    """Their layers have sizes that are arrays of NumPy."""
    content = {"size": np.array([36, 36]), "bandwidth": np.float64(2), "_buffers": {"freqs": torch.zeros(2)}}
    with ada_modules():
        synthesis = PersistentModule("SynthesisNetwork", {"_modules": {"input": PersistentModule("Input", content)}})
        networks = {"G_ema": PersistentModule("Generator", {"_modules": {"synthesis": synthesis}})}
        (tmp_path / "network.pkl").write_bytes(pickle.dumps(networks, protocol=protocol))
    assert "holds a StyleGAN3 generator: only StyleGAN2 is supported" in refusal_message(tmp_path / "network.pkl")


def test_a_wrong_ending_does_not_matter(tmp_path):
    torch.save(ema_state_dict(8), tmp_path / "network.safetensors")
    assert load_published_generator(tmp_path / "network.safetensors").synthesis.resolutions == [4, 8]


@pytest.mark.parametrize(
    "content, reason",
    [
        (numpy_number("O8"), "a type of NumPy that is no number"),
        (numpy_number("f8,f8"), "a type of NumPy that is no number"),
        (call("numpy._core.multiarray", "scalar", b"}", short_bytes(bytes(8))), "a number without a type"),
        (numpy_number("f8", bytes(3)), "ValueError"),
        (numpy_number("f8", bytes(16)), "ValueError"),
        (b"}r" + (2**28).to_bytes(4, "little"), "object 268435456 of 2"),  # a table of 4 GB
        (b"}" + text("a\nb") + text("c\n" + 90 * "d") + b"\x93", "could run code (a?b.c?ddd"),
        (b"X" + (9999).to_bytes(4, "little") + 9999 * b"d" + text("x") + b"\x93", f"({200 * 'd'}...)"),
        (b"K\x01K\x02\x93", "STACK_GLOBAL requires str"),
        (call("numpy", "ndarray", text("x")), "holds a DroppedArray: give a file that holds a dict"),
    ],
    ids=map(str, range(10)),
)
def test_numbers_of_numpy_names_and_memory_in_hostile_pickles(tmp_path, content, reason):
    path = tmp_path / "network.pkl"
    path.write_bytes(opcodes(content))
    assert reason in refusal_message(path)


@pytest.mark.parametrize("name", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_numbers_of_every_release_of_numpy_are_read(tmp_path, name):
    path, attributes = tmp_path / "network.pkl", {"": {"half": np.float32(0.5), "big": np.array(3, ">i8")[()]}}
    write_ada_pickle(path, ada_state_dict(8), attributes=attributes, protocol=2)
    current = np.float64(0).__reduce__()[0].__module__.encode()
    path.write_bytes(path.read_bytes().replace(current, name.encode()))
    attributes = read_network_file(path).attributes
    assert attributes["G_ema"]["half"] == 0.5 and attributes["G_ema"]["big"] == 3
    gain = attributes["G_ema.synthesis.b4.conv1"]["act_gain"]
    assert type(gain) is float and gain == 2**0.5


def test_a_dict_that_holds_another_twice_and_so_on_is_refused_soon(tmp_path):
    content = b"}\x94"
    for i in range(28):  # 2^28 dicts by name
        again = b"h" + bytes([i])
        content += b"}(" + text("a") + again + text("b") + again + b"u\x94"
    (tmp_path / "network.pkl").write_bytes(opcodes(content))
    assert "has more than 100000 dicts and tensors" in refusal_message(tmp_path / "network.pkl")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_files_that_torch_does_not_read_back(tmp_path):
    path, state = tmp_path / "network.pt", ada_state_dict(8)
    for zipped in (True, False):
        torch.save(state, path, pickle_protocol=4, _use_new_zipfile_serialization=zipped)
        message = refusal_message(path)
        assert "(UnpicklingError): check that the file is complete; if it is, convert it where" in message
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("generator/code/__torch__.py", b"")
        archive.writestr("generator/data.pkl", b"}.")
    assert "it is a program of TorchScript; convert it" in refusal_message(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a\nb/my_data.pkl", b"}.")
    assert "it is a zip archive without weights (a?b/my_data.pkl); unpack it first" in refusal_message(path)
    with tarfile.open(path, "w") as archive:
        archive.add(__file__, "generator.pt")
    assert "is a tar archive: unpack it first" in refusal_message(path)
    torch.save({"a\nb": torch.zeros(1)}, path)
    assert "no input.input, but a?b" in refusal_message(path)


def test_a_network_alone_is_read(tmp_path):
    with ada_modules():
        content = pickle.dumps(persistent_generator(ada_state_dict(8), 256, {}))
    (tmp_path / "G_ema.pkl").write_bytes(content)
    assert load_published_generator(tmp_path / "G_ema.pkl").synthesis.b8.conv0.clamp == 256
