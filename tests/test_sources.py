"""Class folders and the deal among hospitals: modes, sizes, splits, bad files, every image once."""

from __future__ import annotations

import collections
import errno
import itertools
import os
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from crypto.errors import CipherwardError
from parties.sources.folder import Folder
from parties.sources.partition import deal, dirichlet, iid
from parties.sources.picture import Undecodable, read_picture
from parties.sources.source import Request, open_source, share_of


def picture(path, mode="L", size=(20, 20), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    gray = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    gray[...] = gray[..., :1]
    # A palette straight from RGB would dither; from gray it is exact.
    Image.fromarray(gray).convert("L" if mode == "P" else mode).convert(mode).save(path)
    return gray[..., 0]


@pytest.fixture
def folder(tmp_path):
    for name in ("healthy", "tumor"):
        for i in range(10):
            picture(tmp_path / name / f"{i}.png", seed=i)
    return tmp_path


def test_splits_are_disjoint_and_whole_and_stratified(folder):
    parts = [Folder(folder, 16, 1, 5, split) for split in ("train", "val", "test")]
    names = [n for p in parts for n in p.names]
    assert sorted(names) == sorted(f"{c}/{i}.png" for c in ("healthy", "tumor") for i in range(10))
    assert [len(p) for p in parts] == [14, 2, 4]
    assert all((np.bincount(p.labels) == len(p) // 2).all() for p in parts)
    assert Folder(folder, 16, 1, 5, "train").names == parts[0].names
    assert Folder(folder, 16, 1, 6, "train").names != parts[0].names


def test_split_folders_are_taken_as_they_are(tmp_path):
    for split, n in (("train", 3), ("val", 1), ("test", 2)):
        for name in "ab":
            for i in range(n):
                picture(tmp_path / split / name / f"{i}.JPG", seed=i)
    assert [len(Folder(tmp_path, 16, 1, 0, s)) for s in ("train", "val", "test")] == [6, 2, 4]
    (tmp_path / "val" / "a" / "0.JPG").unlink()
    with pytest.raises(CipherwardError, match="val/a holds no"):
        Folder(tmp_path, 16, 1, 0, "val")


@pytest.mark.parametrize("channels", [1, 3])
def test_the_file_s_mode_does_not_show(tmp_path, channels):
    # The same gray picture in four modes, one class each: all become the same array.
    values = [picture(tmp_path / f"c-{mode}" / "0.png", mode, seed=1) for mode in ("L", "RGB", "RGBA", "P")]
    for c in tmp_path.iterdir():
        for i in range(1, 10):
            (c / f"{i}.png").write_bytes((c / "0.png").read_bytes())
    source = Folder(tmp_path, 20, channels, 0, "train")
    images = np.stack([source.read(i) for i in range(len(source))])
    assert images.shape == (len(source), 20, 20, channels) and images.dtype == np.uint8
    assert (np.abs(images.astype(int) - values[0][..., None]) <= 1).all()


def as_the_manual_has_it(path, size, channels):
    """The image turned upright, brought to its mode and size by Pillow's own steps, each of them always taken."""
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image).convert("L" if channels == 1 else "RGB")
    resized = upright.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(resized).reshape(size, size, channels)


def saved_in_every_way(folder, width):
    """Files of one smooth picture: every mode that JPEG and PNG know, ways of JPEG, every way to say 'turned'."""
    y, x = np.mgrid[:37, :width]
    pixels = np.stack([4 * x, 6 * y, 3 * x + 2 * y], 2).astype(np.uint8)
    rgb = Image.fromarray(pixels)
    for mode in ("L", "RGB", "CMYK"):
        for name, how in (("", {}), ("progressive", {"progressive": True}), ("full", {"subsampling": 0})):
            rgb.convert(mode).save(folder / f"{mode}-{name}.jpg", quality=90, **how)
    rgb.save(folder / "untransformed.jpg", keep_rgb=True)
    rgb.save(
        folder / "two.jpg", format="MPO", save_all=True, append_images=[rgb.convert("L").convert("RGB")]
    )
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        rgb.convert(mode).save(folder / f"{mode}.png")
    half = rgb.convert("RGBA")
    half.putalpha(Image.fromarray(pixels[..., 0]))
    half.save(folder / "half.png")
    rgb.convert("P").save(folder / "clear.png", transparency=3)
    rgb.save(folder / "a-gif.png", format="GIF")
    for turn in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = turn
        xmp = f'<x:xmpmeta><rdf:Description tiff:Orientation="{turn}"/></x:xmpmeta>'
        rgb.save(folder / f"exif-{turn}.jpg", exif=exif)
        rgb.save(folder / f"exif-{turn}.png", exif=exif)
        rgb.save(folder / f"tiff-{turn}.png", format="TIFF", exif=exif)
        rgb.save(folder / f"xmp-{turn}.jpg", xmp=xmp.encode())
        text, raw = PngImagePlugin.PngInfo(), PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", xmp)
        rgb.save(folder / f"xmp-{turn}.png", pnginfo=text)
        code = exif.tobytes()
        raw.add_text("Raw profile type exif", f"\nexif\n{len(code):8}\n{code.hex()}\n")
        rgb.save(folder / f"raw-{turn}.png", pnginfo=raw)
        late = (
            folder / f"raw-{turn}.png"
        ).read_bytes()  # the same after the pixels, where Pillow finds it, too
        place, end = late.index(b"tEXt") - 4, late.index(b"IDAT") - 4
        last = late.index(b"IEND") - 4
        (folder / f"late-{turn}.png").write_bytes(
            late[:place] + late[end:last] + late[place:end] + late[last:]
        )
    return sorted(folder.iterdir())


@pytest.mark.parametrize("width", [53, 37])
@pytest.mark.parametrize("size", [37, 16])
def test_every_kind_of_file_is_read_as_pillow_s_manual_has_it(tmp_path, size, width):
    files = saved_in_every_way(tmp_path, width)
    turned = 0
    for path in files:
        for channels in (1, 3):
            expected = as_the_manual_has_it(path, size, channels)
            assert np.array_equal(read_picture(path, size, channels), expected), path.name
        with Image.open(path) as image:
            plain = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
        turned += not np.array_equal(expected, np.asarray(plain))
    assert turned == 7 * 6  # seven orientations said in six ways; a TIFF is turned as it is opened


@pytest.mark.parametrize("size", [1, 7, 16, 33])
def test_jpeg_files_that_stand_as_they_are_have_pillow_s_pixels(tmp_path, size, monkeypatch):
    rng, made = np.random.default_rng(size), {}
    for mode, ways in (("L", (None,)), ("RGB", ("4:4:4", "4:2:2", "4:2:0", "4:1:1"))):
        for way, quality, progressive in itertools.product(ways, (1, 30, 75, 95, 100), (False, True)):
            shape = (size, size) if mode == "L" else (size, size, 3)
            path = tmp_path / f"{mode}-{way}-{quality}-{progressive}.jpg".replace(":", "")
            how = {"quality": quality, "progressive": progressive, "restart_marker_rows": quality % 2}
            Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(
                path, **how, **({"subsampling": way} if way else {})
            )
            made[path] = as_the_manual_has_it(path, size, 1 if way is None else 3)
    monkeypatch.setattr(Image, "open", None)  # none of them is Pillow's to read
    for path, expected in made.items():
        assert np.array_equal(read_picture(path, size, expected.shape[2]), expected), path.name


def test_damaged_jpeg_files_are_read_or_refused_as_pillow_does(tmp_path):
    rng, path = np.random.default_rng(1), tmp_path / "a.jpg"
    smooth = np.linspace(0, 255, 24 * 24 * 3).reshape(24, 24, 3).astype(np.uint8)
    Image.fromarray(smooth).save(path)
    whole, outcomes = path.read_bytes(), collections.Counter()
    for _ in range(400):
        damaged = bytearray(whole)
        damaged[rng.integers(2, len(whole))] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            expected = as_the_manual_has_it(path, 24, 3)
        except Exception:
            with pytest.raises(CipherwardError):
                read_picture(path, 24, 3)
            outcomes["refused"] += 1
        else:
            assert np.array_equal(read_picture(path, 24, 3), expected)
            outcomes["read"] += 1
    assert outcomes["refused"] > 20 and outcomes["read"] > 100


def test_files_cut_anywhere_are_refused_or_read_as_pillow_does(tmp_path):
    rgb = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8))
    for name in ("a.jpg", "a.png"):
        rgb.save(tmp_path / name)
        whole = (tmp_path / name).read_bytes()
        for length in (0, 2, 30, len(whole) // 3, len(whole) // 2, len(whole) - 40, len(whole) - 1):
            (tmp_path / name).write_bytes(whole[:length])
            try:
                expected = as_the_manual_has_it(tmp_path / name, 24, 3)
            except Exception:
                with pytest.raises(CipherwardError, match=f"cannot decode {tmp_path / name}"):
                    read_picture(tmp_path / name, 24, 3)
            else:
                assert np.array_equal(read_picture(tmp_path / name, 24, 3), expected)


def test_deep_files_are_refused_not_darkened(tmp_path):
    for name in "ab":
        values = picture(tmp_path / name / "0.png")
        Image.fromarray(values.astype(np.uint16) * 16).save(tmp_path / name / "1.png")
        for i in range(2, 10):
            (tmp_path / name / f"{i}.png").write_bytes((tmp_path / name / "1.png").read_bytes())
    source = Folder(tmp_path, 20, 1, 1, "train")
    row = next(i for i, n in enumerate(source.names) if not n.endswith("0.png"))
    with pytest.raises(CipherwardError, match="more than 8 bits"):
        source.read(row)


def test_splits_with_other_classes_are_refused(tmp_path):
    for split, names in (("train", "abc"), ("val", "bc")):
        for name in names:
            picture(tmp_path / split / name / "0.png")
    with pytest.raises(CipherwardError, match="have other classes: b, c against a, b, c"):
        Folder(tmp_path, 16, 1, 0, "val")


def test_sizes_are_brought_to_one(tmp_path):
    for i, size in enumerate([(16, 16), (40, 20), (8, 30)] * 4):
        picture(tmp_path / "ab"[i % 2] / f"{i}.png", size=size)
    source = Folder(tmp_path, 32, 3, 0, "train")
    assert {source.read(i).shape for i in range(len(source))} == {(32, 32, 3)}


def test_bad_files_and_folders(folder, tmp_path):
    source = Folder(folder, 16, 1, 0, "train")
    victim = folder / source.names[3]
    victim.write_bytes(victim.read_bytes()[:60])
    with pytest.raises(CipherwardError, match=f"cannot decode {victim}"):
        source.read(3)
    source.read(4)
    with pytest.raises(CipherwardError, match="no image folder at"):
        Folder(tmp_path / "absent", 16, 1, 0, "train")
    empty = tmp_path / "empty"
    (empty / "only").mkdir(parents=True)
    with pytest.raises(CipherwardError, match="holds 1 class folders; at least two") as error:
        Folder(empty, 16, 1, 0, "train")
    assert "one folder a class" in error.value.hint
    with pytest.raises(CipherwardError, match="unknown source 'tape'"):
        open_source("tape", Request("", 16, 1, 0, "train", (1, 1, 1)))


def test_a_changed_folder_has_another_fingerprint(folder):
    before = Folder(folder, 16, 1, 0, "train").fingerprint()
    assert Folder(folder, 16, 1, 0, "train").fingerprint() == before
    assert Folder(folder, 24, 1, 0, "train").fingerprint() != before
    picture(folder / Folder(folder, 16, 1, 0, "train").names[0], size=(30, 30))
    assert Folder(folder, 16, 1, 0, "train").fingerprint() != before


LABELS = np.random.default_rng(0).integers(0, 4, 300)


@pytest.mark.parametrize("how", ["iid", "dirichlet"])
def test_every_image_is_dealt_once(how):
    dealt = deal(LABELS, 3, 7, how, 0.5)
    assert sorted(np.concatenate(dealt).tolist()) == list(range(300))
    again = deal(LABELS, 3, 7, how, 0.5)
    assert all(np.array_equal(a, b) for a, b in zip(dealt, again, strict=True))
    assert not np.array_equal(deal(LABELS, 3, 8, how, 0.5)[0], dealt[0])


def test_iid_is_even_and_small_alpha_is_skewed():
    assert [len(p) for p in iid(LABELS, 3, 0)] == [100, 100, 100]

    def skew(alpha):
        shares = [np.bincount(LABELS[p], minlength=4) / len(p) for p in dirichlet(LABELS, 3, 1, alpha)]
        return np.abs(np.stack(shares) - np.bincount(LABELS) / 300).max()

    assert skew(0.1) > 0.3 > 0.1 > skew(1000.0)


def test_deals_that_cannot_be_made():
    with pytest.raises(CipherwardError, match="2 images cannot be dealt to 3 parties"):
        deal(LABELS[:2], 3, 0, "iid", 1)
    with pytest.raises(CipherwardError, match="no deal of 3 images"):
        dirichlet(np.zeros(3, int), 3, 0, 0.01)


def test_a_share_reads_its_own_rows():
    whole = open_source("phantom", Request("", 32, 1, 0, "train", (12, 4, 4)))
    share = share_of(whole, 1, 3, 0, "iid", 1.0)
    assert len(share) == 4 and share.public and share.classes == whole.classes
    for i, row in enumerate(share.rows):
        assert np.array_equal(share.read(i), whole.read(int(row)))
        assert share.labels[i] == whole.labels[row] and share.names[i] == whole.names[row]


# ---- what the machine does not give -----------------------------------------------------------------------------


def of_two_classes(folder, n=10):
    for name in "ab":
        for i in range(n):
            picture(folder / name / f"{i}.png", seed=i)
    return folder


def test_what_is_not_got_at_is_no_malformed_image(tmp_path, monkeypatch):
    with pytest.raises(CipherwardError, match=r"cannot read .*absent.jpg: No such file") as error:
        read_picture(tmp_path / "absent.jpg", 16, 1)
    assert not isinstance(error.value, Undecodable) and "goes on" in error.value.hint
    picture(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(Undecodable):
        read_picture(tmp_path / "b.png", 16, 1)
    for raised, said in (
        (OSError(errno.EIO, "Input/output error"), "Input/output"),
        (MemoryError(), "memory"),
    ):

        def fails(*_, raised=raised):
            raise raised

        monkeypatch.setattr(Image, "open", fails)
        with pytest.raises(CipherwardError, match=said) as error:
            read_picture(tmp_path / "a.png", 16, 1)
        assert not isinstance(error.value, Undecodable)


def test_a_folder_that_cannot_be_listed_is_named_and_links_are_followed_once(tmp_path, monkeypatch):
    images = of_two_classes(tmp_path / "images")
    (images / "a" / "more").mkdir()
    picture(images / "a" / "more" / "x.png", seed=50)
    elsewhere = of_two_classes(tmp_path / "elsewhere", 3) / "a"
    (images / "b" / "linked").symlink_to(elsewhere)
    (images / "b" / "twice").symlink_to(elsewhere)
    (images / "b" / "ring").symlink_to(images / "b")
    names = [name for split in ("train", "val", "test") for name in Folder(images, 20, 1, 0, split).names]
    assert len(names) == len(set(names)) == 10 + 1 + 10 + 3
    real = os.scandir

    def refuses(path="."):
        if str(path).endswith("more"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refuses)
    with pytest.raises(CipherwardError, match=r"cannot read .*/a/more: Permission denied"):
        Folder(images, 20, 1, 0, "train")


def test_what_is_no_file_is_refused_before_it_is_waited_for(tmp_path):
    images = of_two_classes(tmp_path)
    os.mkfifo(images / "a" / "pipe.jpg")
    with pytest.raises(CipherwardError, match=r"pipe\.jpg is no file"):
        [Folder(images, 20, 1, 0, split).fingerprint() for split in ("train", "val", "test")]
    (images / "a" / "pipe.jpg").unlink()
    (images / "a" / "lost.jpg").symlink_to(tmp_path / "nowhere.jpg")
    with pytest.raises(CipherwardError, match=r"cannot read .*lost\.jpg: No such file"):
        [Folder(images, 20, 1, 0, split).fingerprint() for split in ("train", "val", "test")]


def test_a_large_file_is_not_read_whole_to_find_that_it_is_no_jpeg(tmp_path):
    with open(tmp_path / "large.png", "wb") as file:
        file.truncate(1 << 28)
    tracemalloc.start()
    with pytest.raises(Undecodable):
        read_picture(tmp_path / "large.png", 16, 1)
    assert tracemalloc.get_traced_memory()[1] < 1 << 23
    tracemalloc.stop()


def test_a_jpeg_that_the_fast_decoder_does_not_know_is_read_all_the_same(tmp_path, monkeypatch):
    picture(tmp_path / "a.jpg")
    expected = as_the_manual_has_it(tmp_path / "a.jpg", 20, 1)

    def strange(data):
        raise KeyError(6)  # a sampling that it has no name for

    monkeypatch.setattr("simplejpeg.decode_jpeg_header", strange)
    assert np.array_equal(read_picture(tmp_path / "a.jpg", 20, 1), expected)


@pytest.mark.parametrize(("kind", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_png_files_of_sixteen_bits_are_refused(tmp_path, kind, channels):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    for depth, said in ((8, None), (16, "more than 8 bits")):
        rows = b"".join(b"\0" + bytes(range(8 * channels * depth // 8)) for _ in range(8))
        head = struct.pack(">IIBBBBB", 8, 8, depth, kind, 0, 0, 0)
        file = (
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", head)
            + chunk(b"IDAT", zlib.compress(rows))
            + chunk(b"IEND", b"")
        )
        (tmp_path / "p.png").write_bytes(file)
        if said:
            with pytest.raises(Undecodable, match=said):
                read_picture(tmp_path / "p.png", 8, 3)
        else:
            assert read_picture(tmp_path / "p.png", 8, 3).shape == (8, 8, 3)
