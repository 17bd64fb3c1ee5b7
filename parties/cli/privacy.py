"""The commands of cipherward-party about differential privacy: whose images are whose, and what was spent."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from coordinator.exchange.console import result, talk
from crypto.plural import counted
from parties.cli.keys import Hospital


def patients(
    hospital: Hospital,
    table: Annotated[
        Path | None,
        typer.Argument(
            help="A CSV file with the columns image and patient. Without it: as tags, folders or labels say.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Say which training images are of one patient, so that differential privacy protects patients.

    Only numbers are written, into HOSPITAL/private/patients-train.json; they never leave the hospital.
    """
    from crypto.files import folder_lock
    from parties.sealing.place import Place
    from parties.training.patients import (
        patients_file,
        patients_of_source,
        read_patient_table,
        record_patients,
    )

    place = Place.open(hospital)
    with folder_lock(place.folder):
        stated = patients_of_source(place) if table is None else read_patient_table(place, table)
        count = record_patients(place, stated)
    result.print(
        f"{patients_file(place)}: {counted(len(stated), 'training image')} of {counted(count, 'patient')}"
    )


def privacy(hospital: Hospital) -> None:
    """Show what this hospital's trainings may have told of its images: the privacy ledger, and its budget."""
    from parties.agent.privacy_summary import summarise
    from parties.sealing.place import Place

    summary = summarise(Place.open(hospital))
    table = Table("study", "rounds charged", "steps", "noise multiplier", "sampling rate", "unit")
    for row in summary.rows:
        table.add_row(*row)
    if summary.rows:
        talk.print(table)
    for line in summary.lines:
        result.print(line)
