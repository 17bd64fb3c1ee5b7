"""Folders of pictures and arrays as plain images or ciphertexts, for audits of what another program encrypted."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from coordinator.exchange.image_file import PUBLIC_FORMATS, open_image
from crypto.arrays import AnyArray
from crypto.errors import CipherwardError

#: Endings of the files that are read from a folder.
SUFFIXES = (".png", ".bmp", ".jpg", ".jpeg")

#: Pillow's modes that become bytes of gray or RGB without a loss. More bits, and transparency, would be cut off.
_EXACT = ("1", "L", "P", "RGB")

#: Those of them that hold gray levels alone: black and white (1), and gray.
_GRAY = ("1", "L")

#: Images as an array, a .npy file or a folder of pictures.
Stack = AnyArray | str | os.PathLike[str]


def read_stack(source: Stack) -> tuple[AnyArray, list[str] | None]:
    """Return images and, where they are files of a folder, the files' names without endings.

    Args:
        source: An array, the path of a .npy file, or a folder of pictures, read in the order of their names.

    Raises:
        CipherwardError: If nothing can be read there, a picture cannot be decoded, or pictures differ in size.
    """
    if isinstance(source, np.ndarray):
        return source, None
    if not isinstance(source, str | os.PathLike):
        raise CipherwardError(
            f"images came as {type(source).__name__}, which is neither an array nor a path",
            "make one array of them: numpy.stack(images), or tensor.numpy()",
        )
    path = Path(source)
    if path.is_file() and path.suffix == ".npy":
        try:
            stack: AnyArray = np.load(path, allow_pickle=False)
        except (
            ValueError,
            OSError,
            EOFError,
            SyntaxError,
            MemoryError,
        ) as error:  # headers are parsed as Python
            raise CipherwardError(
                f"{path} is no array of images: {error}", "write it with numpy.save"
            ) from None
        if not isinstance(stack, np.ndarray):
            raise CipherwardError(f"{path} holds several arrays", "write one with numpy.save")
        return stack, None
    if not path.is_dir():
        raise CipherwardError(
            f"no folder and no .npy file at {path}", "name a folder of pictures, or an array"
        )
    return _read_folder(path)


def _read_folder(folder: Path) -> tuple[AnyArray, list[str]]:
    # By stem: with their endings, scan.bmp stands before scan.left.bmp, and scan.png after scan.left.png.
    files = sorted(
        (p for p in folder.iterdir() if not p.name.startswith(".")), key=lambda p: (p.stem, p.name)
    )
    others = [p.name for p in files if p.suffix.lower() not in SUFFIXES]
    if others:
        raise CipherwardError(
            f"{folder} holds {others[0]!r}, which is no picture that is read here",
            f"leave only {', '.join(SUFFIXES)} files in it, or hand over an array",
        )
    if not files:
        raise CipherwardError(f"{folder} holds no picture", f"it should hold {', '.join(SUFFIXES)} files")
    stems = [path.stem for path in files]
    if twice := [stem for stem, count in Counter(stems).items() if count > 1]:
        raise CipherwardError(
            f"{folder} holds two pictures named {twice[0]!r} that differ in their ending",
            "keep one of them: a ciphertext is paired with its plain image by the name without ending",
        )
    pictures = [_read_picture(path) for path in files]
    shapes = {picture.shape for picture in pictures}
    if len(shapes) > 1:
        odd = next(
            p for p, picture in zip(files, pictures, strict=True) if picture.shape != pictures[0].shape
        )
        raise CipherwardError(
            f"the pictures in {folder} differ in size or channels: {files[0].name} and {odd.name}",
            "bring all of them to one size and one mode",
        )
    return np.stack(pictures), stems


def _read_picture(path: Path) -> AnyArray:
    """Return a picture as uint8 [h, w, 1 or 3]: gray as it is, and a palette as its colours."""
    try:
        with open_image(path, PUBLIC_FORMATS) as picture:
            if picture.mode not in _EXACT or "transparency" in picture.info:
                raise ValueError(f"as bytes of gray or RGB it would lose something (mode {picture.mode})")
            plain: Image.Image = picture.convert("L" if picture.mode in _GRAY else "RGB")
            array = np.asarray(plain, np.uint8)
    except Exception as error:  # decoders raise anything at malformed files
        raise CipherwardError(
            f"{path} cannot be read: {error}", "write it as PNG, BMP or JPEG: 8 bits, gray or RGB"
        ) from None
    return array[..., None] if array.ndim == 2 else array


def require_pairs(plain: Sequence[str] | None, sealed: Sequence[str] | None, where: str) -> None:
    """Raise CipherwardError if the pictures of two folders are not the same by name: they would be paired wrongly."""
    if plain is None or sealed is None or list(plain) == list(sealed):
        return
    odd = sorted(set(plain) ^ set(sealed))
    raise CipherwardError(
        f"{where} and the folder of plain images do not hold pictures of the same names: {', '.join(odd[:3])}",
        "give a ciphertext the name of its plain image, whatever its ending",
    )
