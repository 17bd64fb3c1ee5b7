"""The hospital's own run of the attacks on the blind controls: what a cloud that withholds nothing finds as well.

Rows and pool of a draw follow from its number and the seed, and guesses from them. So the hospital attacks each blind
control as the cloud says it did: the same attacks of the suite, pool sizes and rows, with at least as much time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from coordinator.exchange.audit.guesses import Draw, read_draws
from coordinator.exchange.audit.suite1 import ATTACKS, ON_POOLS
from crypto.errors import CipherwardError
from crypto.files import disk_errors
from crypto.plural import counted
from parties.scoring.attack_process import AttackOptions, run_attacks
from parties.scoring.ledger import Submission
from parties.scoring.stated_pools import require_same_sizes
from parties.sealing.audit_sets import is_audit_set, role_of
from parties.sealing.place import Place

Log = Callable[[str], None]
#: Bounds of the seconds that an attack may take here, whatever time the cloud states: none so short that nothing can
#: break, none without end. The first is the suite's default; the second was chosen by hand.
_LEAST_BUDGET_S, _MOST_BUDGET_S = 600.0, 3600.0
#: Below the hospital's folder, not in private/: the attacks write there, and they get no path to private/.
FOLDER = "hospital-run"


def attack_blind_controls(
    place: Place, submission: Submission, log: Log = lambda _: None
) -> dict[str, tuple[Draw, Path]]:
    """Attack the blind controls among the draws of a submission; resume an interrupted run.

    Args:
        place: The hospital.
        submission: The cloud's guesses.
        log: Called with a line of progress.

    Returns:
        By the name of each blind control: the hospital's own draw with its guesses, and the folder of these.

    Raises:
        CipherwardError: If the attacks fail.
    """
    audited = [draw for draw, name in submission.draws if is_audit_set(name)]
    attacks = [a for a in ATTACKS if any(guess.attack == a for draw in audited for guess in draw.guesses)]
    pools = sorted({g.pool_size for draw in audited for g in draw.guesses if g.attack in ON_POOLS})
    controls = [
        (draw, name)
        for draw, name in submission.draws
        if is_audit_set(name) and role_of(place, name) == "blind_control"
    ]
    if not controls or not attacks:
        return {}
    log(f"the hospital attacks {counted(len(controls), 'blind control')}, too")
    folder = place.folder / FOLDER / submission.sha256[:16]
    with disk_errors(folder):
        (place.folder / FOLDER).mkdir(mode=0o700, exist_ok=True)
    options = AttackOptions(
        rows=submission.rows,
        seed=submission.seed,
        attacks=attacks,
        pools=pools or [1],
        budget_s=min(max(submission.budget_s or 0.0, _LEAST_BUDGET_S), _MOST_BUDGET_S),
        draw_numbers=[submission.numbers[draw.name] for draw, _ in controls],
        blind=True,  # of some of the audit's sets: what they lack, the audit does not
    )
    run_attacks([place.sealed_folder(name) for _, name in controls], folder, options, log)
    draws, _ = read_draws(folder)
    for own in draws:
        require_same_sizes(own, pools, folder)
    return {name: (_own_draw(draws, draw, folder), folder) for draw, name in controls}


def _own_draw(draws: Sequence[Draw], draw: Draw, folder: Path) -> Draw:
    """Return the hospital's own draw of a set, which must be about the rows of the cloud's."""
    own = next((o for o in draws if o.digests[0] == draw.digests[0]), None)
    if own is None or not np.array_equal(own.rows, draw.rows):
        raise CipherwardError(
            f"{folder} holds guesses about another set", f"remove {folder} and score again"
        )
    return own
