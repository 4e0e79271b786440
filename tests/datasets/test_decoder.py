"""An image of any common encoding is decoded to the pixels that a viewer shows."""

import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, ImageFile

from fwdiff_lite.datasets.images import (
    MAX_FRAMES,
    MAX_PIXELS,
    check_video_size,
    find_image_files,
    image_files,
    open_folder,
    read_gif,
    read_image,
)

RGB = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)  # no symmetry
SMOOTH = (np.stack(np.meshgrid(range(32), range(24), [0, 4, 8]), -1).sum(-1) * 3).astype(np.uint8)
GREY = RGB[..., 0]
# From stored to shown pixels, by the value of the EXIF tag.
ORIENTATIONS = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x, 1),
}


def grey_rgb(x: np.ndarray) -> np.ndarray:
    return np.repeat(x[..., None], 3, -1)


def write_png16(path: Path, pixels: np.ndarray, colour_type: int) -> None:
    """Writes 16 bits a channel: Pillow writes such a PNG of one channel only."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    chunks = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_an_image_is_turned_by_its_exif_orientation(orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "a.png"), ORIENTATIONS[orientation](RGB))


@pytest.mark.parametrize("suffix", ["png", "jpg", "jpeg", "jfif", "webp", "bmp", "tif", "tiff"])
def test_every_format_is_read(suffix, tmp_path):
    file = tmp_path / f"a.{suffix}"
    Image.fromarray(SMOOTH).save(file)
    assert image_files(tmp_path) == [file]
    assert np.abs(read_image(file).astype(int) - SMOOTH).max() <= (0 if suffix in ("png", "bmp", "tif", "tiff") else 12)


def test_grey_palettes_and_one_bit_are_read(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "grey.png")
    assert np.array_equal(read_image(tmp_path / "grey.png"), grey_rgb(GREY))
    Image.fromarray(GREY > 99).save(tmp_path / "bit.png")
    assert np.array_equal(read_image(tmp_path / "bit.png"), grey_rgb(255 * (GREY > 99).astype(np.uint8)))
    palette = Image.fromarray(RGB).quantize(256)
    palette.save(tmp_path / "palette.png")
    with Image.open(tmp_path / "palette.png") as image:
        assert image.mode == "P"
    assert np.array_equal(read_image(tmp_path / "palette.png"), np.asarray(palette.convert("RGB")))


def test_sixteen_bits_are_reduced_to_eight(tmp_path):
    values = np.array([[0, 100, 257, 128 * 257, 65535]], np.uint16)
    expected = grey_rgb(np.array([[0, 0, 1, 128, 255]], np.uint8))
    for file in ("a.png", "a.tif"):
        Image.fromarray(values).save(tmp_path / file)
        assert np.array_equal(read_image(tmp_path / file), expected), file
    write_png16(tmp_path / "rgb.png", np.repeat(values[..., None], 3, -1), 2)
    assert np.array_equal(read_image(tmp_path / "rgb.png"), expected)


@pytest.mark.parametrize("file", ["a.jpg", "a.tif"])
def test_cmyk_colours_are_converted(file, tmp_path):
    cyan = np.zeros((16, 16, 4), np.uint8)
    cyan[..., 0] = 255
    Image.fromarray(cyan, "CMYK").save(tmp_path / file)
    assert np.abs(read_image(tmp_path / file)[8, 8].astype(int) - [0, 255, 255]).max() <= 2


@pytest.mark.parametrize("background", [(255, 255, 255), (10, 200, 30)])
def test_transparency_is_composed_on_the_background(background, tmp_path):
    alpha = np.array([[0, 255, 51]], np.uint8)  # 51 / 255 = 1/5
    colour = np.array([[[250, 0, 100]] * 3], np.uint8)
    Image.fromarray(np.concatenate([colour, alpha[..., None]], -1)).save(tmp_path / "a.png")
    expected = alpha[..., None] / 255 * colour + (1 - alpha[..., None] / 255) * np.array(background)
    assert np.abs(read_image(tmp_path / "a.png", background) - expected).max() <= 1
    Image.fromarray(np.stack([colour[..., 2], alpha], -1), "LA").save(tmp_path / "la.png")
    expected = alpha[..., None] / 255 * 100 + (1 - alpha[..., None] / 255) * np.array(background)
    assert np.abs(read_image(tmp_path / "la.png", background) - expected).max() <= 1
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([9, 9, 9, 7, 8, 9])
    palette.save(tmp_path / "p.png", transparency=0)
    assert read_image(tmp_path / "p.png", background).tolist() == [[list(background), [7, 8, 9]]]


def test_a_gif_may_begin_with_a_transparent_frame(tmp_path):
    """Each frame replaces the one before. The frames of such a file had several shapes."""
    first, second = (Image.fromarray(np.full((8, 8), i, np.uint8), "P") for i in (0, 1))
    for frame in (first, second):
        frame.putpalette([200, 0, 0, 0, 0, 250])
    first.info["transparency"] = 0
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second], disposal=2, transparency=0)
    frames = list(read_gif(tmp_path / "a.gif"))
    assert [frame.shape for frame in frames] == [(8, 8, 3)] * 2
    assert frames[0][0, 0].tolist() == [255, 255, 255] and frames[1][0, 0].tolist() == [0, 0, 250]


def test_names_are_in_natural_order_and_hidden_ones_are_left_out(tmp_path):
    for name in ("10.png", "2.png", "1.png", "a10b2.png", "a9b10.png", "._1.png", ".ipynb_checkpoints/3.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(RGB).save(tmp_path / name)
    for name in ("00001/5.png", "00000/7.png", "__MACOSX/1.png"):
        (tmp_path / name).parent.mkdir()
        Image.fromarray(RGB).save(tmp_path / name)
    top = ["1.png", "2.png", "10.png", "a9b10.png", "a10b2.png"]
    assert [file.name for file in image_files(tmp_path)] == top
    names = [str(file.relative_to(tmp_path)) for file in find_image_files(tmp_path)]
    assert names == [*top, "00000/7.png", "00001/5.png"]
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name in ("x/00001/5.png", "x/00000/7.png", "__MACOSX/x/._1.png", "x/10.png", "x/2.png"):
            archive.writestr(name, (tmp_path / "1.png").read_bytes())
    files = find_image_files(open_folder(tmp_path / "set.zip", "images"))
    assert [file.at for file in files] == ["x/2.png", "x/10.png", "x/00000/7.png", "x/00001/5.png"]
    assert np.array_equal(read_image(files[0]), RGB)


def test_the_size_is_checked_before_anything_is_decoded(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", None)
        Image.new("1", (8_001, 8_000)).save(tmp_path / "a.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("the image was decoded"))
        with pytest.raises(ValueError, match="a.png has 8001 x 8000 pixels, wanted at most 64 million: scale it down"):
            read_image(tmp_path / "a.png")
    frames = [Image.new("1", (8, 8), i % 2) for i in range(MAX_FRAMES + 1)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match="a.gif has 1001 frames, wanted at most 1000: split it"):
        next(read_gif(tmp_path / "a.gif"))
    with pytest.raises(ValueError, match="b.mp4 has 1280 million pixels in all frames, wanted at most 1000: split it"):
        check_video_size(Path("b.mp4"), 20, 20 * MAX_PIXELS)


def test_only_the_allowed_decoders_run(tmp_path, monkeypatch):
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was called"))
    Image.init()
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n")
    with Image.open(tmp_path / "a.png") as image:
        assert image.format == "EPS", "Pillow alone would pass it to Ghostscript"
    with pytest.raises(ValueError, match="a.png cannot be read: it is damaged, or no PNG or JPEG"):
        read_image(tmp_path / "a.png")
