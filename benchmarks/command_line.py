"""What the command lines of the benchmarks share: parser, common options, and writing the figures."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from coordinator.exchange.settings import parse_value
from crypto.errors import CipherwardError

ROOT = Path(__file__).parents[1]


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser that shows a module's docstring as its help, with its line breaks."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add --json, the file that the figures are also written to."""
    parser.add_argument("--json", type=Path, help="also write the figures to this file")


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add --data, the folder of real images; it is required if CIPHERWARD_DATA is not set."""
    default = os.environ.get("CIPHERWARD_DATA")
    parser.add_argument(
        "--data",
        type=Path,
        default=default,
        required=default is None,
        help="the folder of real images; default: CIPHERWARD_DATA",
    )


def add_folder(parser: argparse.ArgumentParser) -> None:
    """Add --folder, the folder of the data, for a benchmark whose --data names data sets in it."""
    parser.add_argument(
        "--folder",
        type=Path,
        default=os.environ.get("CIPHERWARD_DATA"),
        help="where the data is; default: CIPHERWARD_DATA",
    )


def add_names(parser: argparse.ArgumentParser, known: Mapping[str, Iterable[str]]) -> None:
    """Add an option for each list of names, such as --rows; by default all that are known."""
    for option, names in known.items():
        parser.add_argument(option, type=split_list, default=list(names), help="names, separated by commas")


def run_on_folder(options: argparse.Namespace, run: Callable[[argparse.Namespace], None]) -> None:
    """Run a benchmark on the folder of the data; an error ends the program with one line and a hint."""
    try:
        if options.folder is None:
            raise CipherwardError(
                "the folder of the data is not given", "set CIPHERWARD_DATA, or name it with --folder"
            )
        run(options)
    except CipherwardError as error:
        raise SystemExit(f"error: {error.message}\nhint: {error.hint}") from None


def add_plan(parser: argparse.ArgumentParser) -> None:
    """Add --plan, and the paths that may replace those of the plan."""
    parser.add_argument(
        "--plan", type=Path, default=ROOT / "configs" / "demo.yaml", help="the study's plan"
    )
    parser.add_argument("--images", type=Path, help="image folder, in place of the plan's")
    parser.add_argument("--weights", type=Path, help="weights file, in place of the plan's")


def plan_paths(args: argparse.Namespace) -> dict[str, str]:
    """Return the paths that replace those of the plan."""
    return {k: str(v) for k, v in (("images", args.images), ("weights", args.weights)) if v}


def parse_settings(words: list[str]) -> dict[str, Any]:
    """Return KEY=VALUE words as a dict, with the values read as YAML."""
    hint = "for example: --set rounds=3"
    return {
        key: parse_value(value, f"--set {key}", hint)
        for key, _, value in (word.partition("=") for word in words)
    }


def split_list(text: str) -> list[str]:
    """Return names that are separated by commas."""
    return [name.strip() for name in text.split(",")]


def write_figures(path: Path | None, figures: Mapping[str, Any]) -> None:
    """Write the figures as JSON if --json names a file."""
    if path:
        path.write_text(json.dumps(figures, indent=1) + "\n")
