"""Images on disk: the one decoder of all readers of data sets.

A decoded image is RGB of 8 bits, as a viewer shows it: turned by its EXIF orientation, and composed on a background
where it is transparent. The content of a file decides its format, not its name, and only the decoders of FORMATS run.
Files are in a folder, in its sub-folders, or in a zip archive, which is read in place.
"""

import io
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from fwdiff_lite.checks import check_count
from fwdiff_lite.storage.files import DAMAGE_ERRORS

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff")
# The first bytes of encoded images, and the suffixes of their files. WebP has its name behind four bytes of length.
SIGNATURES = {
    b"\xff\xd8": ".jpg",
    b"\x89PNG": ".png",
    b"RIFF": ".webp",
    b"BM": ".bmp",
    b"II*": ".tif",
    b"MM\0*": ".tif",
}
HEIF_SUFFIXES = (".heic", ".heif", ".avif")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
ORIENTATION_TAG = 0x0112  # of EXIF
MAX_PIXELS = 64_000_000  # of one image; the cameras of phones have up to 50 million
MAX_FRAMES = 1000  # of one video
MAX_VIDEO_PIXELS = 1_000_000_000  # of all frames of one video
MAX_FILE_BYTES = 400_000_000  # of one file in an archive, uncompressed
MAX_DEPTH = 10  # of sub-folders
BACKGROUND = (255, 255, 255)  # white
SYSTEM_FOLDERS = ("__MACOSX", "@eaDir")  # copies and thumbnails that macOS and Synology add
DECODER_ERRORS = (*DAMAGE_ERRORS, Image.DecompressionBombError)

Location = Path | zipfile.Path  # a file or a folder, on disk or in an archive


@dataclass(frozen=True)
class EncodedImage:
    """An encoded image that is a part of another file. It is read when it is decoded.

    name: for messages; read: returns the bytes of the image, and can be pickled for the workers of a DataLoader
    """

    name: str
    read: Callable[[], bytes]

    def __str__(self) -> str:
        return self.name

    def read_bytes(self) -> bytes:
        """The encoded image."""
        return self.read()

    def open(self, mode: str = "rb") -> io.BytesIO:
        """The encoded image as a stream."""
        return io.BytesIO(self.read())


ImageFile = Location | EncodedImage


# --- folders ----------------------------------------------------------------------------------------------------------


def open_folder(path: Path | str, content: str) -> Location:
    """A folder, or the root of a zip archive. ValueError, with the wanted content, if the path is neither."""
    path = Path(path)
    try:
        if path.is_dir():
            return path
        if path.suffix.lower() != ".zip" or not path.is_file():
            raise ValueError(f"{path} is not a folder: give one that holds {content}, or a zip archive of it")
    except OSError as error:  # a name that is too long, or a folder that may not be entered
        raise ValueError(f"{path} cannot be opened: {error.strerror}") from None
    try:
        return zipfile.Path(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ValueError(f"{path} cannot be read as a zip archive: {first_line(error)}") from None


def list_folder(folder: Location) -> list[Location]:
    """The files and folders in a folder, in natural order, without hidden ones. ValueError if it cannot be read."""
    try:
        return sorted(
            (path for path in folder.iterdir() if not is_hidden(path.name)),
            key=lambda path: natural_sort_key(path.name),
        )
    except OSError as error:
        raise ValueError(f"{folder} cannot be read: {error.strerror}") from None


def is_hidden(name: str) -> bool:
    """Whether a file or folder belongs to the system or a program, such as ._a.png or .ipynb_checkpoints."""
    return name.startswith(".") or name in SYSTEM_FOLDERS


def natural_sort_key(name: str) -> tuple:
    """A sort key that orders numbers in names by value: 1, 2, 10."""
    parts = re.split("([0-9]+)", name)
    digits = (part.lstrip("0") for part in parts[1::2])
    parts[1::2] = [(len(number), number) for number in digits]  # as text: int() takes at most 4300 digits
    return parts, name


def image_files(folder: Location) -> list[Location]:
    """The image files of a folder in natural order; an empty list if the path is not a folder.

    ValueError if a file has a format of images that is not read.
    """
    if not folder.is_dir():
        return []
    files = [file for file in list_folder(folder) if file.suffix.lower() in IMAGE_SUFFIXES + HEIF_SUFFIXES]
    files = [file for file in files if file.is_file()]
    for file in files:
        if file.suffix.lower() in HEIF_SUFFIXES:
            raise ValueError(heif_text(file))
    return files


def find_file(folder: Path, name: str, suffixes: tuple[str, ...] = ("",)) -> Path | None:
    """The file of a folder that another file names; None if it is missing.

    Programs on Windows write backslashes between folders. suffixes: to be tried at the end of the name
    """
    for path in (folder / f"{spelling}{suffix}" for spelling in (name, name.replace("\\", "/")) for suffix in suffixes):
        try:
            if path.is_file():
                return path
        except (OSError, ValueError):  # a name that no file can have: too long, or with a zero byte
            continue
    return None


def find_image_files(folder: Location, depth: int = 0) -> list[Location]:
    """The image files of a folder and of its sub-folders, in natural order."""
    check_depth(folder, depth)
    subfolders = [path for path in list_folder(folder) if path.is_dir()]
    return image_files(folder) + [file for path in subfolders for file in find_image_files(path, depth + 1)]


def check_depth(folder: Location, depth: int) -> None:
    """ValueError if a folder is nested too deeply."""
    if depth > MAX_DEPTH:
        raise ValueError(f"{folder} is nested {depth} folders deep, wanted at most {MAX_DEPTH}: is a link circular?")


def heif_text(file: ImageFile) -> str:
    return f"{file} is a HEIC or AVIF image, which is not read: convert it to JPEG or PNG"


def encoded_suffix(content: bytes) -> str:
    """The suffix of a file of an encoded image, by its first bytes. ValueError if its format is not known."""
    for signature, suffix in SIGNATURES.items():
        if content.startswith(signature):
            return suffix
    raise ValueError(f"bytes that begin with {content[:8]!r} are no {' or '.join(FORMATS)}")


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its type."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


# --- decoding ---------------------------------------------------------------------------------------------------------


def read_image(file: ImageFile, background: tuple[int, int, int] = BACKGROUND, has_camera: bool = False) -> np.ndarray:
    """Decodes an image file: (h, w, 3) of 8 bits.

    background: the colour behind transparent pixels, 0 to 255
    has_camera: refuse an EXIF orientation, as the camera may be that of the stored or of the shown pixels
    16 bits a channel are reduced to 8. CMYK colours are converted without their colour profile.
    ValueError, with the file's name, if the file is missing or damaged, has another format, several images or more
    than MAX_PIXELS, or has pixels of 32 bits or of floating point.
    """
    try:
        with Image.open(_open(file), formats=FORMATS) as image:
            _check_header(file, image)
            if has_camera:
                _check_orientation(file, image)
            return _to_rgb(file, ImageOps.exif_transpose(image), background)
    except DECODER_ERRORS as error:
        raise _read_error(file, error, FORMATS) from None


def check_image(file: ImageFile, size: int) -> None:
    """ValueError, by the header alone, if `read_image` refuses an image, or if it is smaller than `size` pixels.

    A file whose header is right may be damaged behind it.
    """
    try:
        # a stream in place of _open, which reads the whole file of an archive
        with file.open("rb") as stream, Image.open(stream, formats=FORMATS) as image:
            _check_header(file, image)
            if min(image.size) < size:
                pixels = f"{image.width} x {image.height} pixels, wanted at least {size} x {size}"
                raise ValueError(f"{file} has {pixels}: remove it, or give a smaller resolution")
    except DECODER_ERRORS as error:
        raise _read_error(file, error, FORMATS) from None


def image_size(file: ImageFile) -> tuple[int, int]:
    """The width and height of an image whose camera is known, without decoding it.

    ValueError as in `read_image`, also if the image has an EXIF orientation.
    """
    try:
        with Image.open(_open(file), formats=FORMATS) as image:
            _check_pixels(file, image)
            _check_orientation(file, image)
            return image.size
    except DECODER_ERRORS as error:
        raise _read_error(file, error, FORMATS) from None


def read_gif(file: Location, background: tuple[int, int, int] = BACKGROUND) -> Iterator[np.ndarray]:
    """Decodes the frames of a GIF one by one: (h, w, 3) of 8 bits. ValueError as in `read_image`."""
    try:
        with Image.open(_open(file), formats=("GIF",)) as image:
            _check_pixels(file, image)
            num_frames = image.n_frames
            check_video_size(file, num_frames, num_frames * image.width * image.height)
            for i in range(num_frames):
                image.seek(i)
                yield _to_rgb(file, image, background)
    except DECODER_ERRORS as error:
        raise _read_error(file, error, ("GIF",)) from None


def check_video_size(file: Location, num_frames: int, num_pixels: int) -> None:
    """ValueError if a video has too many frames, or too many pixels in all of its frames."""
    if num_frames > MAX_FRAMES:
        raise ValueError(f"{file} has {num_frames} frames, wanted at most {MAX_FRAMES}: split it")
    if num_pixels > MAX_VIDEO_PIXELS:
        raise ValueError(
            f"{file} has {num_pixels / 1e6:.0f} million pixels in all frames, wanted at most "
            f"{MAX_VIDEO_PIXELS // 1_000_000}: split it, or scale it down"
        )


def _open(file: ImageFile) -> Path | io.BytesIO:
    """What Pillow opens: a path, or the content of a file in an archive."""
    if isinstance(file, Path):
        return file
    if isinstance(file, EncodedImage):
        return file.open()
    size = file.root.getinfo(file.at).file_size
    if size > MAX_FILE_BYTES:
        raise ValueError(f"{file} has {size / 1e6:.0f} MB, wanted at most {MAX_FILE_BYTES // 1_000_000}")
    return io.BytesIO(file.read_bytes())


def _check_header(file: ImageFile, image: Image.Image) -> None:
    """ValueError if an opened image is too large, is one of several in its file, or has pixels that are not read."""
    _check_pixels(file, image)
    num_images = getattr(image, "n_frames", 1)
    if num_images > 1 and image.format != "MPO":  # a JPEG of a phone with a second image behind the first
        raise ValueError(f"{file} has {num_images} images: wanted one image a file")
    if image.mode in ("I", "F"):
        raise ValueError(f"{file} has pixels of 32 bits or of floating point: wanted 8 or 16 bits a channel")


def _check_pixels(file: ImageFile, image: Image.Image) -> None:
    """ValueError if an image is too large to be decoded."""
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(
            f"{file} has {image.width} x {image.height} pixels, wanted at most {MAX_PIXELS // 1_000_000} million: "
            "scale it down"
        )


def _check_orientation(file: ImageFile, image: Image.Image) -> None:
    """ValueError if an image is to be turned before it is shown."""
    orientation = image.getexif().get(ORIENTATION_TAG, 1)
    if orientation != 1:
        raise ValueError(f"{file} has the EXIF orientation {orientation}: turn its pixels, and its camera too")


def _to_rgb(file: ImageFile, image: Image.Image, background: tuple[int, int, int]) -> np.ndarray:
    """The pixels of an opened image, (h, w, 3) of 8 bits."""
    if image.mode.startswith("I;16"):
        grey = ((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8)
        return np.repeat(grey[..., None], 3, -1)
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, background), image.convert("RGBA"))
    return np.array(image.convert("RGB"))


def _read_error(file: ImageFile, error: BaseException, formats: tuple[str, ...]) -> ValueError:
    """A ValueError that names the file, for an error of the decoders of some formats."""
    message = first_line(error)
    if isinstance(error, FileNotFoundError):
        return ValueError(f"{file} does not exist")
    if isinstance(error, ValueError) and message.startswith(str(file)):
        return ValueError(message)
    if isinstance(error, Image.DecompressionBombError):
        return ValueError(
            f"{file} has too many pixels, wanted at most {MAX_PIXELS // 1_000_000} million: scale it down"
        )
    if isinstance(error, UnidentifiedImageError):
        if _is_heif(file):
            return ValueError(heif_text(file))
        message = f"it is damaged, or no {' or '.join(formats)}"
    return ValueError(f"{file} cannot be read: {message}")


def _is_heif(file: ImageFile) -> bool:
    """Whether a file has the content of a HEIC or AVIF image."""
    with file.open("rb") as stream:
        return stream.read(8)[4:] == b"ftyp"


# --- crops ------------------------------------------------------------------------------------------------------------


def crop_and_resize(frames: np.ndarray, size: int, path: ImageFile) -> Float[Tensor, "t 3 size size"]:
    """Crops frames (t, h, w, 3) of 8 bits to the square at their centre, resizes it to `size`, and scales to [-1, 1].

    Raises ValueError, with the file's name, if the frames are smaller than `size`.
    """
    height, width = frames.shape[1:3]
    top, left, side = center_crop_box(height, width)
    if side < size:
        raise ValueError(f"{path} has frames of {height}x{width} pixels: wanted at least {size}x{size}")
    crop = torch.from_numpy(frames[:, top : top + side, left : left + side]).permute(0, 3, 1, 2).float()
    crop = torch.nn.functional.interpolate(crop, (size, size), mode="bilinear", antialias=True)
    return (crop / 127.5 - 1).clamp(-1, 1)


def center_crop_box(height: int, width: int) -> tuple[int, int, int]:
    """Top, left and side of the largest square at the centre of a frame."""
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side


def check_options(size: int, background: tuple[int, int, int]) -> None:
    """ValueError if the size of resized images is not a whole number above 0, or the background is no colour."""
    check_count(size=size)
    if len(background) != 3 or not all(isinstance(x, int) and 0 <= x <= 255 for x in background):
        raise ValueError(f"background is {background!r}: wanted three whole numbers from 0 to 255, red, green and blue")
