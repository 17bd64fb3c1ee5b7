"""Strike secure aggregation and the privacy ledger with each fault of a list, and write down what came of it.

    python -m benchmarks.sum_faults [--json FILE]

Five hospitals and the cloud run the protocol in this process, with a least sum of four: one hospital may vanish. An
outcome is what came out: how many hospitals are in the sum, and the distance of its mean from the plain weighted mean
of these, over the mean's norm; or the line with which a hospital or the cloud refused. A fault is survived if the sum
is that of the survivors within 1e-5, or, where nothing may be revealed, if no sum came out.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console

from benchmarks.command_line import add_json, make_parser, write_figures
from benchmarks.faults.machine_faults import fill, small_disk, why_no_small_disk
from benchmarks.pages.training import sum_faults as as_lines
from benchmarks.sum_round import HOSPITALS, PARAMETERS, Record, Round, StruckError, attempt, federation
from coordinator.report.build import machine
from crypto.errors import CipherwardError
from crypto.identity import Identity
from crypto.secure_sum.member import Member
from parties.sealing.place import Place
from parties.training.privacy_ledger import Budget, Charge, PrivacyLedger

SCHEMA = "cipherward.sum-faults/1"
_CHARGES = 20  # of each of two processes


# ---- faults of the protocol --------------------------------------------------------------------


def strike_protocol() -> list[tuple[str, Record]]:
    """Return every fault of hospitals, messages and the cloud, with its outcome."""
    return [*_deaths(), *_messages(), *_lies(), *_values(), *_restarts()]


def _deaths() -> list[tuple[str, Record]]:
    after = {
        "before its round keys": ("keys", 4),
        "after its round keys": ("shares", 4),
        "after its shares": ("masked", 4),
        "after its masked vector": ("confirm", 5),
        "during unmasking": ("reveal", 5),
    }
    records = []
    for what, (step, counted) in after.items():
        one = Round(federation(), dies={"h02": step})
        records.append((f"one of five hospitals dies {what}", attempt(one, True, counted)))
        two = Round(federation(), dies={"h02": step, "h04": step})
        records.append((f"two of five die {what}", attempt(two, False)))
        three = Round(federation(3), dies={"h02": step})
        records.append((f"one of three dies {what}", attempt(three, False)))
    return records


def _messages() -> list[tuple[str, Record]]:
    def twice(round_: Round) -> None:
        collector = round_.collector
        round_.refuses("cloud", lambda: collector.add_vector("h00", round_.vectors["h00"]))
        round_.refuses("cloud", lambda: collector.add_shares("h00", round_.sent["h00"]))
        round_.refuses("cloud", lambda: collector.add_keys("h00", round_.keys["h00"]))

    def replay(round_: Round) -> None:
        old = dataclasses.replace(round_.federation.round_id, attempt="00" * 16)
        round_.keys["h03"] = Member.start(round_.federation.identities["h03"], old).keys()

    def too_early(round_: Round) -> None:
        vector = round_.vectors["h03"]
        round_.refuses("cloud", lambda: round_.collector.add_vector("h03", vector))
        round_.refuses("h03", lambda: round_.federation.members["h03"].reveal({}, round_.federation.rules))

    def cut_share(round_: Round) -> None:
        round_.sent["h04"] = round_.sent["h04"] | {"h00": round_.sent["h04"]["h00"][:-1]}

    def lose_shares(round_: Round) -> None:
        round_.sent["h04"] = {"h00": round_.sent["h04"]["h00"]}

    def cut_vector(round_: Round) -> None:
        round_.vectors["h04"] = round_.vectors["h04"][:-1]

    return [
        ("answers arrive twice", attempt(Round(federation(), {"masked h01": twice}), True, 5)),
        ("round keys of an older attempt", attempt(Round(federation(), {"keys h03": replay}), True, 4)),
        ("steps out of order", attempt(Round(federation(), {"shares h03": too_early}), True, 5)),
        ("one share is cut off", attempt(Round(federation(), {"shares h04": cut_share}), True, 5)),
        (
            "shares for one hospital only",
            attempt(Round(federation(), {"shares h04": lose_shares}), True, 4),
        ),
        ("a masked vector is cut off", attempt(Round(federation(), {"masked h04": cut_vector}), True, 4)),
    ]


def _lies() -> list[tuple[str, Record]]:
    def forge(round_: Round) -> None:
        round_.signatures["h04"] = round_.signatures["h00"]

    def sign_keys_wrongly(round_: Round) -> None:
        round_.keys["h04"] = dataclasses.replace(round_.keys["h04"], signature=bytes(64))

    def stranger(round_: Round) -> None:
        identity = Identity.generate("h99")
        round_.keys["h99"] = Member.start(identity, round_.federation.round_id).keys()

    def middle(round_: Round) -> None:
        identity = Identity.generate("h04")
        round_.keys["h04"] = Member.start(identity, round_.federation.round_id).keys()

    def other_model(round_: Round) -> None:
        other = dataclasses.replace(round_.federation.round_id, model="00" * 32)
        round_.keys["h04"] = Member.start(round_.federation.identities["h04"], other).keys()

    def few(round_: Round) -> None:
        round_.keys = {name: round_.keys[name] for name in ("h00", "h01")}

    def drop_the_living(round_: Round) -> None:
        """Take a vector that arrived out of the sum again, to get its pairwise masks besides its own."""
        round_.survivors = [name for name in round_.survivors if name != "h04"]
        round_.collector.survivors = list(round_.survivors)
        round_.collector.total -= round_.vectors["h04"]

    def small_sum(round_: Round) -> None:
        round_.survivors = round_.survivors[:3]
        round_.collector.survivors = list(round_.survivors)

    def two_lists(round_: Round) -> None:
        """Show h00 another list than the others, to get both secrets of h04."""
        members, rules = round_.federation.members, round_.federation.rules
        others = {}
        for name in round_.survivors:
            shown = round_.survivors[:-1] if name == "h00" else round_.survivors
            others[name] = members[name].confirm(shown, round_.federation.identities[name], rules)
        del others["h00"]
        round_.refuses("h00", lambda: members["h00"].reveal(others, rules))
        raise StruckError

    def unmask_again(round_: Round) -> None:
        for name in ("h00", "h01"):
            member, rules = round_.federation.members[name], round_.federation.rules
            round_.refuses(name, lambda m=member, r=rules: m.reveal(round_.signatures, r))  # type: ignore[misc]

    f = federation
    return [
        ("a wrong signature of the survivors", attempt(Round(f(), {"confirm h04": forge}), True, 5)),
        (
            "round keys with a wrong signature",
            attempt(Round(f(), {"keys h04": sign_keys_wrongly}), True, 4),
        ),
        ("the cloud adds a hospital to the roster", attempt(Round(f(), {"shown keys": stranger}), False)),
        (
            "the cloud puts its own keys in a hospital's place",
            attempt(Round(f(), {"shown keys": middle}), False),
        ),
        ("one hospital received another model", attempt(Round(f(), {"shown keys": other_model}), False)),
        ("the cloud shows two members only", attempt(Round(f(), {"shown keys": few}), False)),
        (
            "a living hospital is named as dropped",
            attempt(Round(f(), {"survivors": drop_the_living}), True, 4),
        ),
        ("a sum of three instead of four", attempt(Round(f(), {"survivors": small_sum}), False)),
        ("two lists of survivors", attempt(Round(f(), {"survivors": two_lists}), False)),
        ("a second unmasking", attempt(Round(f(), {"unmasked": unmask_again}), True, 5)),
    ]


def _values() -> list[tuple[str, Record]]:
    def poison(value: float) -> Callable[[Round], None]:
        def strike(round_: Round) -> None:
            update = round_.updates["h04"].copy()
            update[0] = value
            round_.vectors["h04"], clipped = round_.point.encode(update, round_.weights["h04"])
            round_.refusals.append(f"h04: {clipped} of {update.size} values clipped to ±1")
            round_.updates["h04"] = np.clip(update, -1, 1)

        return strike

    cases = {"not a number": np.nan, "infinite": np.inf, "1e30": 1e30}
    return [
        (
            f"one weight of an update is {name}",
            attempt(
                Round(federation(), {"update h04": poison(value)}), True, 5 if np.isfinite(value) else 4
            ),
        )
        for name, value in cases.items()
    ]


def _restarts() -> list[tuple[str, Record]]:
    killed = federation()
    first = Round(killed)
    attempt(first, True)
    killed.begin()
    same = Round(killed, earlier=first.collector.survivors)
    again = attempt(same, True, 5)
    killed.begin()
    without = Round(killed, dies={"h04": "shares"}, earlier=first.collector.survivors)
    unfinished = federation()
    attempt(Round(unfinished, dies={"h03": "confirm", "h04": "confirm"}), False)
    unfinished.begin()
    return [
        (
            "the server is killed before unmasking; the round is repeated",
            attempt(Round(unfinished), True, 5),
        ),
        ("the server is killed after unmasking; the round is repeated", again),
        ("… and repeated without one hospital", attempt(without, False)),
    ]


# ---- faults of the ledger ----------------------------------------------------------------------

_CHARGE = """
import sys
from pathlib import Path
from benchmarks.sum_faults import charge_often
charge_often(Path(sys.argv[1]), sys.argv[2])
"""


def charge_often(folder: Path, name: str) -> None:
    """Charge a hospital's ledger many times."""
    ledger = PrivacyLedger(Place.open(folder))
    for number in range(_CHARGES):
        ledger.charge(_charge(f"{name}-{number}"), Budget(0.0, 0.0), 0)


def _charge(request: str) -> Charge:
    return Charge("study", "policy", request, 1, "image", "images", 1.0, 0.1, 5)


def strike_ledger(folder: Path) -> list[tuple[str, Record]]:
    """Return every fault of the privacy ledger, with its outcome. A full disk is skipped where none can be made."""
    Place.from_settings(folder / "two", {"party": "two"}).save()
    runs = [
        subprocess.Popen([sys.executable, "-c", _CHARGE, str(folder / "two"), name]) for name in ("a", "b")
    ]
    codes = [run.wait(300) for run in runs]
    kept = len({charge.request for charge in PrivacyLedger(Place.open(folder / "two")).charges()})
    said = [f"{kept} of {2 * _CHARGES} charges are in the ledger"]
    records: list[tuple[str, Record]] = [
        (
            "two trainings charge one privacy ledger at once",
            {"said": said, "survived": codes == [0, 0] and kept == 2 * _CHARGES},
        )
    ]
    name = "a full disk under the privacy ledger"
    if why := why_no_small_disk():
        return [*records, (name, {"said": [f"skipped: {why}"], "survived": None})]
    disk = folder / "full"
    with small_disk(disk, 1 << 16):
        Place.from_settings(disk / "h", {"party": "full"}).save()
        ledger = PrivacyLedger(Place.open(disk / "h"))
        ledger.charge(_charge("before"), Budget(0.0, 0.0), 0)
        accepted, refused = ["before"], ""
        ballast = fill(disk)
        for number in range(100):  # the last page of the ledger may still have room
            try:
                ledger.charge(_charge(f"full-{number}"), Budget(0.0, 0.0), 0)
            except CipherwardError as error:
                refused = error.message.replace(str(folder) + os.sep, "")
                break
            accepted.append(f"full-{number}")
        ballast.unlink()
        ledger.charge(_charge("after"), Budget(0.0, 0.0), 0)
        requests = [charge.request for charge in ledger.charges()]
    is_whole = requests == [*accepted, "after"]
    said = [
        refused,
        f"with room again: {len(requests)} charges, of which {len(accepted) + 1} were accepted",
    ]
    return [*records, (name, {"said": said, "survived": bool(refused) and is_whole})]


def main() -> None:
    """Run the command line."""
    parser = make_parser(__doc__)
    add_json(parser)
    args: argparse.Namespace = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = [*strike_protocol(), *strike_ledger(Path(folder))]
    result = {
        "schema": SCHEMA,
        "machine": machine(),
        "hospitals": HOSPITALS,
        "parameters": PARAMETERS,
        "faults": [{"fault": name, **record} for name, record in found],
    }
    Console().print("\n".join(as_lines(result)))
    write_figures(args.json, result)


if __name__ == "__main__":
    main()
