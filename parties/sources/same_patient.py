"""Which images are of one patient, where several things name the patient: folders, tags, a label file."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from parties.sources.class_names import without_invisible

_DASHES = re.compile("[\u2010-\u2015\u2212]")
_WHOLE_WITH_COMMA = re.compile(r"\A(-?[0-9]+),0*\Z")
#: Stands between the digests of a PatientID and of its issuer.
ISSUER = ":"


def plain_number(cell: str) -> str:
    """Return a cell with a whole number in its shortest spelling, and other cells as they are."""
    whole, point, rest = cell.partition(".")
    digits = whole.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()) or (point and rest.strip("0")):
        return cell
    return str(int(whole)) if len(whole) < 20 else whole


def one_spelling(patient: str) -> str:
    """Return a patient's name in the spelling that is compared: 7, 007 and 7.0 are one patient, so are p1 and P1.

    Digits of full width are digits, spaces of any kind and number are one space, dashes of any length are one sign,
    characters that nobody sees are left out, and 7,0 is 7.0. Two patients taken for one cost images in a split. One
    patient taken for two is in train and in test.
    """
    plain = " ".join(unicodedata.normalize("NFKC", without_invisible(patient)).split())
    plain = _WHOLE_WITH_COMMA.sub(r"\1", _DASHES.sub("-", plain))
    return unicodedata.normalize("NFC", plain_number(plain).casefold())


def join_issuers(tags: Iterable[str]) -> dict[str, str]:
    """Return the patient that each digest of DICOM tags stands for.

    One PatientID of two issuers is of two patients. Where a file has the PatientID and no issuer, it may be of
    either: then the PatientID alone is one patient.
    """
    known = set(tags)
    return {tag: alone if (alone := tag.partition(ISSUER)[0]) in known else tag for tag in known}


def name_patients(names: Mapping[str, Sequence[str]], hints: Mapping[str, str]) -> dict[str, str]:
    """Return a patient for each image; empty if nothing is known.

    Args:
        names: Of each image, what names its patient, such as a folder and a PatientID. Images that have a name in
            common are of one patient, and so are all that are linked in this way.
        hints: Of an image, what else may tell its patient, such as a study. It counts only where the image has no
            name: the image is of the patient whose images have the same hint, if that is one patient. Otherwise the
            hint stands for a patient.
    """
    leader: dict[str, str] = {}

    def find(name: str) -> str:
        while leader[name] != name:
            leader[name] = leader[leader[name]]
            name = leader[name]
        return name

    for own in names.values():
        for name in own:
            leader.setdefault(name, name)
        for name in own[1:]:
            leader[find(name)] = find(own[0])
    owners: defaultdict[str, set[str]] = defaultdict(set)
    for image, own in names.items():
        if own and (hint := hints.get(image)):
            owners[hint].add(find(own[0]))
    patients = {}
    for image, own in names.items():
        hint = hints.get(image, "")
        known = {find(own[0])} if own else owners.get(hint, set())
        patients[image] = next(iter(known)) if len(known) == 1 else hint
    return patients
