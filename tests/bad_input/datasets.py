"""Bad input to fwdiff_lite.datasets: images, videos, clips with cameras, and lists of views."""

import io
import tempfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fwdiff_lite.datasets import videos, view_sampler
from fwdiff_lite.datasets.clip_folder import read_folder
from fwdiff_lite.datasets.image_folder import read_images
from fwdiff_lite.datasets.posed_clips import Clip
from fwdiff_lite.datasets.realestate10k import parse_line, read_clip
from fwdiff_lite.datasets.videos import read_video, read_videos
from fwdiff_lite.datasets.view_sampler import read_evaluation_list

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\nshowpage\n"
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
GREY = np.full((64, 64, 3), 128, np.uint8)
POSE = "1 0 0 0 0 1 0 0 0 0 1 0"
LINE = f"5 0.7 0.9 0.5 0.5 0 0 {POSE}"
FILES = (Path("1.png"), Path("2.png"), None, Path("4.png"))
FRAMES = torch.zeros(4, 3, 8, 8)


def image_bytes(array=GREY, image_format="PNG", **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, image_format, **options)
    return stream.getvalue()


PNG, JPEG = image_bytes(), image_bytes(image_format="JPEG")


def huge_png() -> bytes:
    """A PNG that declares 20,000 x 20,000 pixels and holds none."""
    content = bytearray(image_bytes())
    content[16:24] = (20_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


def pages(image_format: str, count: int) -> bytes:
    stream, page = io.BytesIO(), [Image.new("L", (8, 8), i % 256) for i in range(count)]
    page[0].save(stream, image_format, save_all=True, append_images=page[1:])
    return stream.getvalue()


def archive(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as target:
        for name, content in files.items():
            target.writestr(name, content)
    return stream.getvalue()


def zip_bomb() -> bytes:
    """An archive whose directory declares 4 GB for an image."""
    content = bytearray(archive({"a.png": PNG}))
    size = content.rindex(b"PK\1\2") + 24
    content[size : size + 4] = (4_000_000_000).to_bytes(4, "little")
    return bytes(content)


def in_folder(read, files: dict[str, bytes | str], path: str = ""):
    """A call that writes files to a temporary folder and reads a path in it."""

    def call():
        with tempfile.TemporaryDirectory() as folder:
            for name, content in files.items():
                file = Path(folder, name)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content.encode() if isinstance(content, str) else content)
            return read(Path(folder, path))

    return call


def images(name: str, files: dict[str, bytes], message: str | None, **options):
    return f"read_images {name}", in_folder(lambda folder: read_images(folder, **{"size": 8} | options), files), message


def zipped(name: str, content: bytes, message: str | None):
    return f"read_images zip {name}", in_folder(lambda path: read_images(path, 8), {"a.zip": content}, "a.zip"), message


def video(name: str, files: dict[str, bytes], path: str, message: str | None, **options):
    return f"read_video {name}", in_folder(lambda path: read_video(path, **{"size": 8} | options), files, path), message


def line(name: str, change: dict[int, str] | str, message: str | None):
    """A line of a clip's text file, some of whose words are replaced."""
    words = LINE.split()
    for i, word in change.items() if isinstance(change, dict) else ():
        words[i] = word
    text = change if isinstance(change, str) else " ".join(words)
    return f"parse_line {name}", lambda: parse_line(text), message


def clip(name: str, text: bytes | str, message: str | None, frames=("5.png",), on_error="skip"):
    files = {"c.txt": text} | {f"c/{frame}": image_bytes() for frame in frames}
    return f"read_clip {name}", in_folder(lambda path: read_clip(path, on_error), files, "c.txt"), message


def view_list(name: str, text: bytes | str, message: str | None):
    return f"read_evaluation_list {name}", in_folder(read_evaluation_list, {"list": text}, "list"), message


CLIP = Clip("a", (1, 2, 3, 4), torch.eye(3).double().repeat(4, 1, 1), torch.eye(4).double().repeat(4, 1, 1), FILES)
CASES = [
    images("text", {"a.png": b"not an image"}, "a.png cannot be read: it is damaged, or no PNG or JPEG or WEBP"),
    images("empty file", {"a.png": b""}, "a.png cannot be read"),
    images("EPS named png", {"a.png": EPS}, "a.png cannot be read: it is damaged, or no PNG"),
    images("GIF named png", {"a.png": pages("GIF", 2)}, "a.png cannot be read: it is damaged, or no PNG"),
    images("PDF named jpg", {"a.jpg": b"%PDF-1.7\n"}, "a.jpg cannot be read: it is damaged"),
    images("heic", {"a.heic": HEIC, "b.png": PNG}, "a.heic is a HEIC or AVIF image, which is not read: convert it"),
    images("HEIC named jpg", {"a.jpg": HEIC}, "a.jpg is a HEIC or AVIF image, which is not read: convert it"),
    images("huge png", {"a.png": huge_png()}, "a.png has too many pixels, wanted at most 64 million"),
    images("truncated png", {"a.png": PNG[:60]}, "a.png cannot be read"),
    images("truncated jpg", {"a.jpg": JPEG[:400]}, "a.jpg cannot be read"),
    images("truncated webp", {"a.webp": image_bytes(image_format="WEBP")[:40]}, "a.webp cannot be read"),
    images("two pages", {"a.tif": pages("TIFF", 2)}, "a.tif has 2 images: wanted one image a file"),
    images("animated png", {"a.png": pages("PNG", 3)}, "a.png has 3 images: wanted one image a file"),
    images("float", {"a.tif": image_bytes(np.zeros((8, 8), np.float32), "TIFF")}, "a.tif has pixels of 32 bits or"),
    images("int32", {"a.tif": image_bytes(np.zeros((8, 8), np.int32), "TIFF")}, "a.tif has pixels of 32 bits or of"),
    images("too small", {"a.png": image_bytes(GREY[:5])}, "a.png has frames of 5x64 pixels: wanted at least 8x8"),
    images("no image", {"a.csv": b""}, "holds no image: wanted files"),
    images("only hidden", {"._a.png": PNG, "__MACOSX/a.png": PNG, ".x/a.png": PNG}, "holds no image: wanted files"),
    images("hidden garbage", {"._a.png": b"x", ".ipynb_checkpoints/a.png": b"x", "a.png": PNG}, None),
    images("nested", {"/".join("x" * 12) + "/a.png": PNG}, "is nested 11 folders deep, wanted at most 10"),
    images("size 0", {"a.png": PNG}, "got size = 0, wanted a whole number", size=0),
    images("size -8", {"a.png": PNG}, "got size = -8, wanted a whole number", size=-8),
    images("size 8.5", {"a.png": PNG}, "got size = 8.5, wanted a whole number", size=8.5),
    images("size None", {"a.png": PNG}, "got size = None, wanted a whole number", size=None),
    images("background of two", {"a.png": PNG}, "background is .1, 2.: wanted three whole", background=(1, 2)),
    images("background 256", {"a.png": PNG}, "background is .* wanted three whole numbers", background=(0, 0, 256)),
    ("read_images nowhere", lambda: read_images("/nowhere"), "/nowhere is not a folder: give one that holds images"),
    ("read_images file", in_folder(read_images, {"a.png": PNG}, "a.png"), "a.png is not a folder: give one"),
    zipped("not a zip", b"PK no", "a.zip cannot be read as a zip archive"),
    zipped("truncated", archive({"a.png": PNG})[:-30], "a.zip cannot be read as a zip archive"),
    zipped("no image", archive({"a.txt": b"x"}), "a.zip holds no image"),
    zipped("huge png", archive({"a.png": huge_png()}), "a.png has too many pixels"),
    zipped("bomb", zip_bomb(), "a.png has 4000 MB, wanted at most 400"),
    zipped("altered", archive({"a.png": PNG}).replace(PNG[-20:-4], b"?" * 16), "a.png cannot be read"),
    zipped("outside", archive({"../../a.png": PNG, "b.png": PNG}), None),
    video("one frame", {"v/1.png": PNG}, "v", "v has 1 frame: a video needs two or more"),
    video("no frame", {"v/a.txt": b""}, "v", "v has 0 frame"),
    video("sizes", {"v/1.png": PNG, "v/2.png": image_bytes(GREY[:9])}, "v", "v has frames of several sizes"),
    video("one damaged", {"v/1.png": PNG, "v/2.png": PNG[:60]}, "v", "2.png cannot be read"),
    video("hidden frame", {"v/1.png": PNG, "v/2.png": PNG, "v/._1.png": b"x"}, "v", None),
    video("text gif", {"a.gif": b"GIF89a and then nothing"}, "a.gif", "a.gif cannot be read"),
    video("png named gif", {"a.gif": PNG}, "a.gif", "a.gif cannot be read: it is damaged, or no GIF"),
    video("long gif", {"a.gif": pages("GIF", 1001)}, "a.gif", "a.gif has 1001 frames, wanted at most 1000: split it"),
    video("an image", {"a.png": PNG}, "a.png", "a.png has 1 frame: a video needs"),
    video("text mp4", {"a.mp4": b"text"}, "a.mp4", "a.mp4 cannot be read"),
    video("EPS named mp4", {"a.mp4": EPS}, "a.mp4", "a.mp4 cannot be read"),
    video("other suffix", {"a.xyz": b"text"}, "a.xyz", "a.xyz is not a video: wanted a file"),
    video("nowhere", {}, "a.gif", "a.gif does not exist"),
    video("size 0", {"v/1.png": PNG, "v/2.png": PNG}, "v", "got size = 0, wanted a whole number", size=0),
    ("read_videos nowhere", lambda: read_videos("/nowhere"), "/nowhere is not a folder: give one that holds videos"),
    ("read_videos empty", in_folder(read_videos, {"a.txt": b""}), "holds no video: wanted files"),
    ("batches gap 0", lambda: videos.batches({"a": FRAMES}, 2, 0), "a gap of 0 frames does not fit the shortest video"),
    ("batches gap 4", lambda: videos.batches({"a": FRAMES}, 2, 4), "a gap of 4 frames does not fit the shortest video"),
    ("batches gap 1.5", lambda: videos.batches({"a": FRAMES}, 2, 1.5), "max_frame_gap is 1.5: wanted a whole number"),
    ("batches without videos", lambda: videos.batches({}, 2), "there are no videos"),
    (
        "batches of two sizes",
        lambda: videos.batches({"a": FRAMES, "b": FRAMES[..., :7]}, 2),
        "b has frames of shape .3, 8, 7.: wanted .3, 8, 8. as in a",
    ),
    ("batches size 0", lambda: videos.batches({"a": FRAMES}, 0), "got batch_size = 0, wanted a whole number"),
    ("batches size 2.5", lambda: videos.batches({"a": FRAMES}, 2.5), "got batch_size = 2.5, wanted a whole number"),
    line("16 numbers", " ".join(LINE.split()[:16]), "has 16 numbers, wanted 19: timestamp fx fy cx cy k1 k2, and a 3"),
    line("nothing", "", "has 0 numbers, wanted 19"),
    line("pixels", {1: "500", 2: "500", 3: "320", 4: "240"}, "has focal lengths 500 and 500, .* not in pixels"),
    line("principal point in pixels", {3: "320", 4: "240"}, "has the principal point 320 240, wanted it in the frame"),
    line("distortion", {5: "0.1"}, "has distortion .0.1, 0.0., wanted zeros: undistort"),
    line("timestamp 500000.0", {0: "500000.0"}, "has the timestamp '500000.0', wanted a whole number of microseconds"),
    line("timestamp -1", {0: "-1"}, "has the timestamp '-1', wanted a whole number"),
    line("timestamp of 30 digits", {0: "9" * 30}, "has the timestamp '9+', wanted a whole number"),
    line("timestamp of other digits", {0: "٥"}, "has the timestamp '٥', wanted a whole number"),
    line("number of other digits", {1: "٠.٧"}, "has '٠.٧', which is not a number"),
    line("number with _", {1: "0_1.5"}, "has '0_1.5', which is not a number"),
    line("word", {1: "x" * 1000}, r"has 'x{60}'... \(1,000 characters\), which is not a number"),
    line("NaN", {10: "nan"}, "has a NaN or an infinite number"),
    line("infinity", {10: "1e999"}, "has a NaN or an infinite number"),
    line("focal length 1e308", {1: "1e308"}, "has focal lengths 1e.308 and 0.9, wanted both from 0.1 to 100"),
    line("translation 1e308", {10: "1e308"}, "has a translation of 1e.308, wanted at most 1e.09"),
    line("no rotation", {7: "2"}, "has a pose whose first three columns are not a rotation matrix"),
    line("rotation 1e200", {7: "1e200"}, "has a pose whose first three columns are not a rotation matrix"),
    line("mirrored", {7: "-1"}, "are not a rotation matrix: they are mirrored, with the determinant -1"),
    line("scaled", {7: "2", 12: "2", 17: "2"}, "are not a rotation matrix: they are one that is scaled by 2$"),
    line("focal length 0.01", {1: "0.01"}, "has focal lengths 0.01 and 0.9, wanted both from 0.1 to 100"),
    clip("pixels", f"url\n5 500 500 320 240 0 0 {POSE}", "c.txt has no camera: line 2 has focal lengths 500 and 500"),
    clip("timestamp", f"url\n5.0{LINE[1:]}\n6.0{LINE[1:]}", "c.txt has no camera: line 2 has the timestamp '5.0'"),
    clip("16 columns", f"url\n5 {POSE} 1 1 1", "c.txt has no camera: line 2 has 16 numbers, wanted 19"),
    clip("address alone", "url\n", "c.txt has no camera: it ends with line 1"),
    clip("empty", "", "c.txt has no camera: it ends with line 1"),
    clip("binary", b"\xff\xfe\x00", "c.txt cannot be read: .*utf-8"),
    clip("byte order mark", b"\xef\xbb\xbfurl\n" + LINE.encode(), None),
    clip("byte order mark without address", b"\xef\xbb\xbf" + LINE.encode(), "line 1 is the camera", on_error="raise"),
    clip("other names", f"url\n{LINE}", "holds none of its 1 frames but f1.png: wanted .* 5.png", ["f1.png"]),
    clip("no folder", f"url\n{LINE}", "c.txt has no frame: .*c does not exist", []),
    clip("on_error", f"url\n{LINE}", "on_error='ignore' is unknown: choose one of raise, skip", on_error="ignore"),
    ("read_clip nowhere", lambda: read_clip("/nowhere.txt"), "/nowhere.txt cannot be read: No such file"),
    ("read_clip folder", in_folder(read_clip, {"c.txt/a": b""}, "c.txt"), "c.txt cannot be read: Is a directory"),
    ("read_folder nowhere", lambda: read_folder("/nowhere"), "/nowhere is not a folder: give one that holds posed"),
    ("read_folder gap", lambda: read_folder(".", (9, 2)), "frame_gap is .9, 2.: wanted the smaller number first"),
    view_list("JSON", "{" + '"a": [1, 2], ' * 20_000 + "}", "list is JSON: read it with pixelsplat.read_evalua"),
    view_list("long line", "x" * 377_214, r"line 1 is 'x{60}'... \(377,214 characters\): wanted a clip and three"),
    view_list("long name", "x" * 1000 + " 1 3 2", "line 1 is .*: wanted a clip and three timestamps"),
    view_list("other digits", "clip 1 3 ²", "line 1 is 'clip 1 3 ²': wanted a clip and three timestamps"),
    view_list("binary", b"\xff\xfe", "list is not text in UTF-8: wanted a clip"),
    view_list("byte order mark", b"\xef\xbb\xbfclip 1 3 2\n", None),
    view_list("empty", "", "list is empty: delete it"),
    ("read_evaluation_list folder", lambda: read_evaluation_list("/"), "/ cannot be read: Is a directory"),
    ("read_evaluation_list nowhere", lambda: read_evaluation_list("/nowhere"), "/nowhere cannot be read: No such file"),
    ("view batches without clips", lambda: view_sampler.batches([]), "there are no clips"),
    ("view batches size 0", lambda: view_sampler.batches([CLIP], 0), "got batch_size = 0, wanted a whole number"),
    ("view batches gap", lambda: view_sampler.batches([CLIP], 2, (3, 2)), "frame_gap is .3, 2.: wanted the smaller"),
    ("view batches gap 0", lambda: view_sampler.batches([CLIP], 2, (0, 2)), "frame_gap is .0, 2.: wanted the smaller"),
    ("view batches side 0", lambda: view_sampler.batches([CLIP], 2, (1, 2), side=0), "got side = 0, wanted"),
    (
        "view batches pixels",
        lambda: view_sampler.batches([CLIP], 2, (1, 2), 0),
        "got pixels = 0, wanted a whole",
    ),
    ("view batches threads", lambda: view_sampler.batches([CLIP], 2, (1, 2), num_threads=0), "got num_threads = 0"),
    ("view batches short clip", lambda: view_sampler.batches([CLIP], 2, (5, 9)), "a has no two frames 5 to 9 apart"),
    ("load_views without views", lambda: view_sampler.load_views([CLIP], [], 8), "the list has no views"),
    ("load_frames none", lambda: CLIP.load_frames([], 8), "frame_indices is .., wanted indices of frames with an"),
    ("load_frames 9", lambda: CLIP.load_frames([9], 8), "frame_indices is .9., wanted indices of frames with an image"),
    ("load_frames -1", lambda: CLIP.load_frames([-1], 8), "frame_indices is .-1., wanted indices of frames with an"),
    ("load_frames no image", lambda: CLIP.load_frames([0, 2], 8), "frame_indices is .0, 2., wanted indices of frames"),
    ("load_frames side", lambda: CLIP.load_frames([0], 0), "got side = 0, wanted a whole number"),
]
