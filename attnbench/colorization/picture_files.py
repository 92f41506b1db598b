"""Picture files of any kind: read, checked and written."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from attnbench.colorization.line_art import Lines
from attnbench.data.images import decode
from attnbench.data.layouts import IMAGE_SUFFIXES
from attnbench.errors import UserError
from attnbench.files import replacing

FEW_DARK = 0.01  # a transparent drawing has light lines if a smaller share of its opaque pixels is dark
WRITTEN = IMAGE_SUFFIXES - {".gif"}  # GIF's 256 colours are too few
LONGEST_SIDE = {".webp": 16_383, ".jpg": 65_500, ".jpeg": 65_500}  # pixels, the longest side that a format allows


def read_picture(path: Path, lines: Lines = "dark") -> Image.Image:
    """A picture file as upright 8-bit RGB, see `data.images.decode`; `lines` as for `backdrop`.

    Raises:
        UserError: the file cannot be read, or has more pixels than Pillow deems safe to decode (89 million).
    """
    with opened_picture(path) as picture:
        return decode(picture, backdrop(picture, lines))


def size_of(path: Path) -> tuple[int, int]:
    """Width and height from a picture file's header, as stored, which may not be upright. Raises as `read_picture` does."""
    with opened_picture(path) as picture:
        return picture.size


@contextmanager
def opened_picture(path: Path) -> Iterator[Image.Image]:
    """An open picture file. Opening it and errors in the block raise UserError as `read_picture` does."""
    formats = sorted({Image.registered_extensions()[suffix] for suffix in IMAGE_SUFFIXES})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=formats) as picture:
                yield picture
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        millions = (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise UserError(f"'{path}' has more than {millions} million pixels: save it smaller first") from None
    except Exception as error:  # decoders raise many types, and any of them means that the file is unusable
        why = (isinstance(error, OSError) and error.strerror) or " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            why = f"it is damaged or not a picture ({', '.join(formats)})"
        raise UserError(f"'{path}' cannot be read: {why}") from None


def backdrop(picture: Image.Image, lines: Lines) -> str:
    """The colour to put behind a transparent drawing: `black` for light lines, which `auto` finds by few dark opaque pixels."""
    if not picture.has_transparency_data or picture.mode.startswith("I") or lines in ("dark", "keep"):
        return "white"
    if lines == "light":
        return "black"
    picture = picture.convert("RGBA")
    counts = picture.convert("L").histogram(picture.getchannel("A").point([0] * 128 + [255] * 128))
    return "black" if sum(counts[:128]) < FEW_DARK * sum(counts) else "white"


def write_picture(picture: Image.Image, path: Path) -> None:
    """Write a file in the format of its suffix; missing folders are created.

    Raises:
        UserError: the file cannot be written, or the format does not allow pictures of this size.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as draft:
            picture.save(draft, Image.registered_extensions()[path.suffix.lower()])
    except (OSError, ValueError) as error:
        raise unwritable(path, error) from None


def unwritable(path: Path, error: OSError | ValueError) -> UserError:
    why = getattr(error, "strerror", None) or error
    return UserError(f"'{path}' cannot be written ({why}): choose another place or format with -o")


def pictures_in(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    pictures = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    if not pictures:
        raise UserError(f"no pictures in '{folder}' (looked for {', '.join(sorted(IMAGE_SUFFIXES))})")
    return pictures
