"""Read DICOM files frame by frame as gray or RGB pictures of 8 bits.

Decoded by pydicom with decoders whose licences fit ours: openjpeg (JPEG 2000), pyjpegls (JPEG-LS), pylibjpeg-rle
(RLE), Pillow (baseline JPEG) and GDCM (lossless and extended JPEG). TRANSFER_SYNTAXES lists them all.

Of the tags, only those of the pixels are used, and patient, study and series as keyed digests (`Header.group`), whose
key lives as long as the process: a plain digest would confirm a known name. No tag's value stands in a reason, an
error or a log. pydicom quotes values in its messages, so its messages are silenced and its errors are replaced.

Overlays are not drawn. What pixels stand for is in dicom_values.py.
"""

from __future__ import annotations

import io
import logging
import os
import re
import warnings
import zlib
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

import blake3

from coordinator.exchange.image_file import UnreadableFormatError, require_few_pixels
from crypto.arrays import AnyArray, UInt8Array
from parties.sources import frame_decoders
from parties.sources.catalog import NO_PATIENT
from parties.sources.codestream import require_declared_form, require_declared_size
from parties.sources.dicom_frames import require_no_more_bytes, require_no_more_frames
from parties.sources.dicom_tables import read_palette
from parties.sources.dicom_values import OVERLAY_POSITIONS, PixelTags, value_of
from parties.sources.reading import Reading, UnusablePixelsError
from parties.sources.same_patient import ISSUER, one_spelling

#: What is decoded: UID of the transfer syntax → (name, pydicom's plugin; empty for pydicom itself).
TRANSFER_SYNTAXES = {
    "1.2.840.10008.1.2": ("Implicit VR Little Endian", ""),
    "1.2.840.10008.1.2.1": ("Explicit VR Little Endian", ""),
    "1.2.840.10008.1.2.1.99": ("Deflated Explicit VR Little Endian", ""),
    "1.2.840.10008.1.2.2": ("Explicit VR Big Endian", ""),
    "1.2.840.10008.1.2.4.50": ("JPEG Baseline, 8 bits", frame_decoders.NAME),
    "1.2.840.10008.1.2.4.51": ("JPEG Extended, 8 and 12 bits", frame_decoders.NAME),
    "1.2.840.10008.1.2.4.57": ("JPEG Lossless, any predictor", frame_decoders.NAME),
    "1.2.840.10008.1.2.4.70": ("JPEG Lossless, first-order prediction", frame_decoders.NAME),
    "1.2.840.10008.1.2.4.80": ("JPEG-LS Lossless", "pyjpegls"),
    "1.2.840.10008.1.2.4.81": ("JPEG-LS Near-lossless", "pyjpegls"),
    "1.2.840.10008.1.2.4.90": ("JPEG 2000 Lossless", frame_decoders.NAME),
    "1.2.840.10008.1.2.4.91": ("JPEG 2000", frame_decoders.NAME),
    "1.2.840.10008.1.2.4.201": ("High-Throughput JPEG 2000 Lossless", frame_decoders.NAME),
    "1.2.840.10008.1.2.4.202": ("High-Throughput JPEG 2000 Lossless, RPCL", frame_decoders.NAME),
    "1.2.840.10008.1.2.4.203": ("High-Throughput JPEG 2000", frame_decoders.NAME),
    "1.2.840.10008.1.2.5": ("RLE Lossless", frame_decoders.NAME),
}
_DEFLATED, _EXPLICIT = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.1"
_DIRECTORY = "1.2.840.10008.1.3.10"  # the SOP class of a DICOMDIR
#: Bytes of a deflated data set, inflated. A few kilobytes can name any size. Larger ones are refused.
MAX_INFLATED = 1 << 29
#: Bytes of an encapsulated frame's item that are its own: a tag and a length.
_ITEM_BYTES = 8
_JPEG_2000_COLOUR = ("YBR_ICT", "YBR_RCT")  # its decoder undoes them, and no other one
_GRAY, _COLOUR = ("MONOCHROME1", "MONOCHROME2"), ("RGB", "YBR_FULL", "YBR_FULL_422", *_JPEG_2000_COLOUR)
# Data sets with pixels that are no pictures: segmentations, doses and maps of values.
_NO_PICTURES = ("SEG", "RTDOSE", "RWV", "REG")
# The same by SOP class, as a map's or a mask's modality is often that of the images it was made from: parametric
# maps, segmentations, segmentations of labels, and doses.
_NO_PICTURE_CLASSES = tuple(f"1.2.840.10008.5.1.4.1.1.{n}" for n in ("30", "66.4", "66.7", "481.2"))
#: Kinds of image whose pixels often hold names; the tag that says so is often left out.
OFTEN_BURNED_IN = ("US", "SC", "OT", "ES", "XC", "GM", "IVUS")
#: SOP classes of such images: ultrasound, and secondary captures. A dose sheet or a screenshot of a CT is a secondary
#: capture, and its modality is often that of the images it was made from.
_OFTEN_BURNED_IN_CLASSES = re.compile(r"1\.2\.840\.10008\.5\.1\.4\.1\.1\.([36](\.1)?|7(\.[1-4])?)")
_TAGS = (
    "BurnedInAnnotation", "RecognizableVisualFeatures",
    "Modality", "SOPClassUID", "PatientID", "IssuerOfPatientID", "PatientName",
    "StudyInstanceUID", "SeriesInstanceUID", "SamplesPerPixel", "PhotometricInterpretation",
    "PresentationLUTShape", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns", "BitsAllocated", "BitsStored",
    "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit",
    "FloatPixelPaddingValue", "FloatPixelPaddingRangeLimit", "DoubleFloatPixelPaddingValue",
    "DoubleFloatPixelPaddingRangeLimit", "RescaleSlope",
    "RescaleIntercept", "ModalityLUTSequence", "VOILUTSequence", "WindowCenter", "WindowWidth",
    "VOILUTFunction", "PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing",
    "PixelAspectRatio", "RedPaletteColorLookupTableDescriptor",
    "GreenPaletteColorLookupTableDescriptor", "BluePaletteColorLookupTableDescriptor",
    "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData", "SegmentedRedPaletteColorLookupTableData",
    "SegmentedGreenPaletteColorLookupTableData", "SegmentedBluePaletteColorLookupTableData",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
)  # fmt: skip
_digest_key = os.urandom(32)


class DirectoryError(UnusablePixelsError):
    """A DICOMDIR: an index of other files, without an image of its own."""


@dataclass(frozen=True)
class Header:
    """What is known of a DICOM image before its pixels are decoded.

    Attributes:
        frames: Number of frames.
        width: Of a frame, in pixels.
        height: Of a frame, in pixels.
        mode: `gray` or `colour`, and the bits a channel.
        group: Keyed digest of the patient, with its issuer's behind ISSUER, or else of the study or the series; empty
            if the file names none.
        aspect: The height of a pixel of the first frame as a share of its width.
        may_show_names: True if the kind of image often has names in its pixels, and the file says nothing about it.
        is_recognizable: True if the file says that the patient can be recognised in it, such as by the face.
    """

    frames: int
    width: int
    height: int
    mode: str
    group: str
    aspect: float
    may_show_names: bool
    is_recognizable: bool


def silence() -> None:
    """Silence pydicom's log and warnings, which quote the values of tags."""
    import pydicom.config

    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    logger = logging.getLogger("pydicom")
    logger.handlers, logger.propagate, logger.disabled = [logging.NullHandler()], False, True
    for module in (r"pydicom(\..*)?", r"parties\.sources\.dicom"):
        warnings.filterwarnings("ignore", module=module)


def read_header(file: BinaryIO, reading: Reading) -> Header:
    """Return what a DICOM file says of its image.

    Raises:
        UnusablePixelsError: If it holds no image that is read. The text holds no value of a tag.
    """
    with _errors():
        data = _DataSet(file)
        data.check(reading)
        data.check_length()
        mode = f"{'gray' if data.is_gray else 'colour'} {data.bits} bits"
        silent = not data.text("BurnedInAnnotation") and data.is_often_burned_in
        try:
            aspect = data.values.aspect(0)
        except UnusablePixelsError:
            if reading.fit != "stretch":  # else it does not matter
                raise
            aspect = 1.0
        shows_patient = data.text("RecognizableVisualFeatures").upper() not in ("", "NO")
        return Header(
            data.frames, data.width, data.height, mode, data.group(), aspect, silent, shows_patient
        )


def pixel_aspect(file: BinaryIO, index: int) -> float:
    """Return the height of a frame's pixels as a share of their width; 1 where the file does not say it."""
    with _errors():
        return _DataSet(file).values.aspect(index)


def read_frame(file: BinaryIO, index: int, reading: Reading) -> UInt8Array:
    """Return a frame as gray values uint8 [h, w], or as RGB [h, w, 3].

    Args:
        file: A DICOM file.
        index: The frame, from 0.
        reading: Its window takes the place of the file's own.

    Raises:
        UnusablePixelsError: If it holds no such image. The text holds no value of a tag.
    """
    with _errors():
        data = _DataSet(file)
        data.check(reading)
        if not 0 <= index < data.frames:
            raise UnusablePixelsError(f"frame {index} of {data.frames}")
        return data.show(index, reading)


class _errors:  # noqa: N801 - a context manager
    """Replace pydicom's errors, whose texts may quote tags."""

    def __enter__(self) -> None:
        silence()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, (UnusablePixelsError, UnreadableFormatError, MemoryError)):
            return
        if isinstance(error, OSError) and error.errno is not None:
            return
        if isinstance(error, Exception):
            text = "its DICOM data set is damaged or cut off"
            raise UnusablePixelsError(f"{text} ({type(error).__name__})") from None


class _DataSet:
    """The tags of the pixels of one file, and where its pixels are."""

    def __init__(self, file: BinaryIO) -> None:
        from pydicom._uid_dict import UID_dictionary
        from pydicom.filereader import read_dataset
        from pydicom.tag import Tag
        from pydicom.uid import UID

        file.seek(132)
        meta = read_dataset(
            file, is_implicit_VR=False, is_little_endian=True, stop_when=lambda tag, _vr, _n: tag.group != 2
        )
        if str(meta.get("MediaStorageSOPClassUID", "")) == _DIRECTORY:
            raise DirectoryError("an index of other files (DICOMDIR)")
        self.syntax = UID(str(meta.get("TransferSyntaxUID", "")))
        if not self.syntax:
            raise UnusablePixelsError(
                "DICM is in it, and no file header behind it: not a DICOM file, or a damaged one"
            )
        if self.syntax not in TRANSFER_SYNTAXES:
            # The value of a private syntax could be anything.
            name = self.syntax.name if self.syntax in UID_dictionary else "unknown or private"
            raise UnusablePixelsError(f"its transfer syntax is not decoded: {name}")
        self.file, self.is_inflated = file, self.syntax == _DEFLATED
        if self.is_inflated:
            self.file, self.syntax = _inflate(file), UID(_EXPLICIT)
        self.length = (
            self.file.seek(0, io.SEEK_END) if self.is_inflated else os.fstat(file.fileno()).st_size
        )
        if self.is_inflated:
            self.file.seek(0)
        self.tags: Any = read_dataset(
            self.file,
            is_implicit_VR=self.syntax.is_implicit_VR,
            is_little_endian=self.syntax.is_little_endian,
            stop_when=lambda tag, _vr, _n: tag in (0x7FE00008, 0x7FE00009, 0x7FE00010),
            specific_tags=[*(Tag(name) for name in _TAGS), *OVERLAY_POSITIONS],
        )
        self.values = PixelTags(self.tags)
        self.number, self.text = self.values.number, self.values.text
        start = self.file.tell()
        head = self.file.read(8)
        self.has_pixels = bool(head)
        # Some programs write a data set, or its pixels, in the other form than the file names: with the types of
        # values, or without. pydicom notices it in the tags, but takes the pixels from the wrong place.
        self.is_explicit = head[4:6] in (b"OB", b"OW", b"OF", b"OD", b"UN")
        self.pixels_at = start + (12 if self.is_explicit else 8)
        stated = self.file.read(4) if self.is_explicit else head[4:]
        order: Literal["little", "big"] = "little" if self.syntax.is_little_endian else "big"
        self.pixel_bytes = min(int.from_bytes(stated, order), self.length - self.pixels_at)
        self.has_floats = head[:4] not in (
            b"\xe0\x7f\x10\0",
            b"\x7f\xe0\0\x10",
        )  # not Pixel Data: of floats
        self.width, self.height = self.number("Columns"), self.number("Rows")
        self.frames = max(1, self.number("NumberOfFrames", 1))
        self.is_gray = self.text("PhotometricInterpretation") in _GRAY

    @property
    def bits(self) -> int:
        """Bits of a channel."""
        return self.number("BitsStored", self.number("BitsAllocated", 8))

    @property
    def is_often_burned_in(self) -> bool:
        """Whether the kind of image often has names in its pixels."""
        return self.text("Modality") in OFTEN_BURNED_IN or bool(
            _OFTEN_BURNED_IN_CLASSES.fullmatch(self.text("SOPClassUID"))
        )

    def group(self) -> str:
        """Return keyed digests of the patient and the issuer, or else NO_PATIENT and one of the study or the series.

        Two machines often spell one PatientID in two ways: with zeros before it, or in capitals.
        """
        if patient := one_spelling(self.text("PatientID")):
            issuer = one_spelling(self.text("IssuerOfPatientID"))
            return _digest("PatientID", patient) + (ISSUER + _digest("Issuer", issuer) if issuer else "")
        for name in ("StudyInstanceUID", "SeriesInstanceUID"):
            if self.text(name):
                return NO_PATIENT + _digest(name, self.text(name))
        return ""

    def check(self, reading: Reading) -> None:
        """Raise UnusablePixelsError if the file holds no image that is read, before anything is allocated."""
        if self.text("Modality") in _NO_PICTURES or self.text("SOPClassUID") in _NO_PICTURE_CLASSES:
            raise UnusablePixelsError("a segmentation, a dose or a map, not an image")
        if not self.has_pixels or not (self.width or self.height):
            raise UnusablePixelsError("it holds no pixels, such as a report or a plan")
        if missing := self._missing_tags():
            raise UnusablePixelsError(f"its data set lacks {' and '.join(missing)}")
        _ = self.is_gray and self.values.is_inverted
        form = self.text("PhotometricInterpretation")
        if form not in (*_GRAY, *_COLOUR, "PALETTE COLOR"):
            raise UnusablePixelsError("its colours are in a form that is not read")
        if form in _JPEG_2000_COLOUR and self.syntax not in frame_decoders.JPEG_2000:
            raise UnusablePixelsError(
                f"its colours are in a form of JPEG 2000 ({form}), and its pixels are not"
            )
        # Only NO denies it: some programs write Y, TRUE or UNKNOWN.
        if self.text("BurnedInAnnotation").upper() not in ("", "NO") and not reading.allow_burned_in:
            raise UnusablePixelsError(
                "it says that names may be written into the pixels (BurnedInAnnotation); if they are not,"
                " --allow-burned-in"
            )
        require_few_pixels(self.width, self.height)
        samples, bits = self.number("SamplesPerPixel", 1), self.number("BitsAllocated", 8)
        if samples not in (1, 3) or bits not in (1, 8, 16, 32, 64):
            raise UnusablePixelsError(f"{samples} channels of {bits} bits are not read")
        if (samples == 3) is not (self.text("PhotometricInterpretation") in _COLOUR):
            raise UnusablePixelsError("its pixels have other channels than its form of colours has")
        stored = self.number("BitsStored", bits)
        if not self.has_floats and self.number("HighBit", stored - 1) != stored - 1:
            raise UnusablePixelsError(
                "its pixels lie in other bits than the lowest ones (HighBit and BitsStored)"
            )
        bytes_a_frame = _ITEM_BYTES
        if not self.syntax.is_encapsulated:
            half = 2 if self.text("PhotometricInterpretation") == "YBR_FULL_422" else 3
            share = half / 3 if samples == 3 else 1.0
            bytes_a_frame = max(1, int(self.width * self.height * samples * share * bits) // 8)
        groups = self.tags.get("PerFrameFunctionalGroupsSequence")
        if (
            groups and len(groups) < self.frames
        ):  # the others would be shown with the file's own values, or none
            raise UnusablePixelsError(
                f"it says of {len(groups)} of its {self.frames} frames what they hold"
            )
        if self.frames * bytes_a_frame > self.length:
            raise UnusablePixelsError(
                f"it names {self.frames} frames of {self.width}×{self.height} pixels and holds fewer bytes"
            )

    def _missing_tags(self) -> list[str]:
        """Return the tags without which nobody knows how its pixels lie."""
        needed = ["Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated"]
        if not self.has_floats:
            needed += ["BitsStored", "PixelRepresentation"]
        if self.number("SamplesPerPixel", 1) > 1:
            needed.append("PlanarConfiguration")
        sizes = ("Rows", "Columns")  # of which 0 is none
        return [
            name
            for name in needed
            if value_of(self.tags, name) in (None, "", *([0] if name in sizes else []))
        ]

    def check_length(self) -> None:
        """Raise UnusablePixelsError if the file holds more pixels than it names, of which some would be left out."""
        if self.syntax.is_encapsulated:
            is_rle = self.syntax == frame_decoders.RLE
            require_no_more_frames(self.file, self.pixels_at, self.frames, one_fragment_a_frame=is_rle)
            return
        bits = self.number("SamplesPerPixel", 1) * self.number("BitsAllocated", 8)  # of a pixel
        named = self.pixels_at - (-self.frames * self.width * self.height * bits // 8)
        row = max(self.width, self.height) * bits // 8
        require_no_more_bytes(self.file, self.pixels_at + self.pixel_bytes, named, row)

    def show(self, index: int, reading: Reading) -> UInt8Array:
        """Return a frame as uint8 [h, w] or [h, w, 3]."""
        pixels = self.decode(index)
        if self.text("PhotometricInterpretation") == "PALETTE COLOR":
            colours: UInt8Array = read_palette(self.tags, bool(self.syntax.is_little_endian)).apply(pixels)
            return colours
        if not self.is_gray:
            return self.values.show_colours(pixels)
        return self.values.show(pixels, index, reading)

    def decode(self, index: int) -> AnyArray:
        """Return a frame's pixels as they are stored, [h, w], or as RGB [h, w, 3]."""
        from pydicom.encaps import get_frame
        from pydicom.pixels.utils import pixel_array

        plugin = TRANSFER_SYNTAXES[self.syntax][1]
        if plugin and self.syntax != frame_decoders.RLE:
            # The decoders allocate what the code says, whatever the tags say.
            self.file.seek(self.pixels_at)
            code = get_frame(self.file, index, number_of_frames=self.frames)
            require_declared_size(code, self.width, self.height)
            if self.syntax in frame_decoders.JPEG_2000:
                is_ybr = self.text("PhotometricInterpretation") in ("YBR_FULL", "YBR_FULL_422")
                require_declared_form(code, bool(self.number("PixelRepresentation")), is_ybr)
        if plugin == frame_decoders.NAME:
            frame_decoders.register(self.syntax)
        options: dict[str, Any] = {"decoding_plugin": plugin} if plugin else {}
        options["correct_unused_bits"] = False  # pydicom cuts them off, whatever is in them
        if self.is_inflated:
            options["transfer_syntax_uid"] = self.syntax
        self.file.seek(0)
        try:
            pixels: AnyArray
            if self.is_explicit is self.syntax.is_implicit_VR:
                pixels = self._decode_mixed(index, options)
            else:
                pixels = pixel_array(self.file, index=index, **options)
        except (MemoryError, OSError):
            raise
        except Exception as error:
            raise UnusablePixelsError(
                f"its pixels are cut off, or cannot be decoded ({type(error).__name__})"
            ) from None
        if pixels.shape[:2] != (self.height, self.width):
            raise UnusablePixelsError("its pixels are of another size than it says")
        is_one_channel = self.number("SamplesPerPixel", 1) == 1
        return self.values.clear_unused_bits(pixels) if is_one_channel else pixels

    def _decode_mixed(self, index: int, options: dict[str, Any]) -> AnyArray:
        """Return a frame's pixels where their element is in the other form than the transfer syntax says."""
        from pydicom.pixels.decoders.base import get_decoder
        from pydicom.pixels.utils import as_pixel_options

        if self.has_floats:
            raise UnusablePixelsError("its pixels are in a form that is not read")
        vr = "OW" if self.number("BitsAllocated", 8) > 8 else "OB"
        stated: dict[str, Any] = as_pixel_options(self.tags, pixel_keyword="PixelData", pixel_vr=vr)
        stated["transfer_syntax_uid"] = self.syntax
        self.file.seek(self.pixels_at)
        pixels, _ = get_decoder(self.syntax).as_array(self.file, index=index, **{**stated, **options})
        return pixels


def _digest(name: str, value: str) -> str:
    """Return a digest of a tag's value under the process's key."""
    return blake3.blake3(f"{name}\0{value}".encode(errors="replace"), key=_digest_key).hexdigest(16)


def _inflate(file: BinaryIO) -> BinaryIO:
    """Return the inflated rest of a file. Raises UnusablePixelsError if it is more than MAX_INFLATED bytes."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    data = inflater.decompress(file.read(), MAX_INFLATED)
    if inflater.unconsumed_tail:
        raise UnusablePixelsError(f"its deflated data set is larger than {MAX_INFLATED >> 20} MiB")
    return io.BytesIO(data)
