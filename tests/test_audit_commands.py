"""An audit by the real commands (attack, score, report) for every scheme, with and without public images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from crypto.scheme import SCHEMES
from parties.sources.phantom import Phantom
from tests.support.command_runs import Here

PARTY, COORDINATOR = "cipherward-party", "cipherward-coordinator"
#: A hospital does not seal under the controls. Each audit attacks all of them anyway.
SEALING = sorted(SCHEMES.keys() - {"plain", "noise", "permuted"})
BLOCK = {"le": 4, "ele": 4, "pe": 4, "patch_shuffle": 4}
#: Options of schemes whose defaults take seconds, or leave too few keys for images of 32×32.
OPTIONS = {
    "neuracrypt": ["--option", "width=64", "--option", "depth=1"],
    "sub_block_etc": ["--option", "sub_block=2"],
}
ROWS = 32


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a hospital's phantom images (own/) and public images of the same source (public/)."""
    folder: Path = tmp_path_factory.mktemp("images")
    for name, seed in (("own", 0), ("public", 9)):
        source = Phantom(32, 3, 120, seed, "train")
        for row in range(len(source)):
            path = folder / name / source.classes[source.labels[row]] / f"{row:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(source.read(row)).save(path)
    return folder


def run_audit(
    here: Here, images: Path, scheme: str, public: bool, folder: Path, pools: str = "1,10"
) -> dict[str, Any]:
    """Seal, attack, score and report in this process, and return report.json."""
    hospital, guesses = folder / "hospital", folder / "guesses"

    def run(program: str, *words: object) -> None:
        done = here(program, *words)
        assert done.returncode == 0, f"{program} {words[0]}: {done.stderr}"

    sealing = ["--scheme", scheme, "--image-size", 32, "--block", BLOCK.get(scheme, 8), "--gray"]
    sealing += OPTIONS.get(scheme, [])
    run(PARTY, "keygen", hospital)
    run(PARTY, "seal", hospital, "--images", images / "own", *sealing, "--audit", 1)
    options = ["--public", images / "public"] if public else []
    run(
        COORDINATOR,
        "attack",
        hospital / "sealed",
        "--out",
        guesses,
        "--rows",
        ROWS,
        "--pools",
        pools,
        *options,
    )
    run(PARTY, "score", hospital, guesses, "--rows", ROWS)
    words = ["--guesses", guesses, "--sealed", hospital / "sealed", "--out", folder / "report"]
    here(COORDINATOR, "report", hospital / "scores.json", *words)  # exits 1 where a control failed
    report: dict[str, Any] = json.loads((folder / "report" / "report.json").read_text())
    return report


def check_report(report: dict[str, Any], public: bool) -> None:
    attacks = {finding["attack"] for finding in report["findings"]}
    assert {"as_is", "leading_bit", "pooled_key_recovery"} <= attacks
    assert ("moment_matching" in attacks) == public
    assert not [finding["error"] for finding in report["findings"] if finding["error"]]
    # Each control was attacked and scored. None is missing because a file of its guesses was refused.
    assert not [name for name, control in report["controls"].items() if control["said"] == "not run"]
    assert ("orthogonal" in report["controls"]) == public


@pytest.mark.slow
def test_a_scheme_that_no_key_opens_goes_through_the_commands(
    here: Here, images: Path, tmp_path: Path
) -> None:
    report = run_audit(here, images, "neuracrypt", False, tmp_path)
    check_report(report, False)
    control = report["controls"]["true_key"]
    assert control["ok"] and "no key opens neuracrypt" in control["said"]
    assert report["scheme"]["is_invertible"] is False
    assert not report["verdict"]["broken"] and all(f["K"] is None for f in report["findings"])
    assert "No key opens the ciphertexts of neuracrypt" in (tmp_path / "report" / "report.html").read_text()


@pytest.mark.long
def test_moment_matching_on_a_scheme_that_seals_to_bytes_is_scored(
    here: Here, images: Path, tmp_path: Path
) -> None:
    # Other tests compile what recovers this scheme's keys, too. The slow test below has all schemes.
    check_report(run_audit(here, images, "block_pixel_shuffle", True, tmp_path, pools="10"), True)


@pytest.mark.slow
@pytest.mark.parametrize("public", [False, True], ids=["ciphertexts", "public"])
@pytest.mark.parametrize("scheme", SEALING)
def test_every_scheme_and_every_control_goes_through_the_commands(
    here: Here, images: Path, tmp_path: Path, scheme: str, public: bool
) -> None:
    report = run_audit(here, images, scheme, public, tmp_path)
    check_report(report, public)
    own_control = {"sub_block_etc": "known", **({"noisy_orthogonal": "orthogonal"} if public else {})}
    if scheme in own_control:
        control = report["controls"][own_control[scheme]]
        assert control["ok"] and scheme in control["said"]
