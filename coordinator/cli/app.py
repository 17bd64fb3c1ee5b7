"""cipherward-coordinator: what runs in the cloud, and whole studies on one machine.

`cipherward-coordinator COMMAND --help` says more.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from coordinator.exchange.console import result, run, seconds, sizes, talk
from crypto.cores import cores
from crypto.errors import CipherwardError, unknown
from crypto.files import disk_errors, write_json, write_text

app = typer.Typer(
    help="What runs in the cloud: training, attacks, reports. It never sees a key or a plain image.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    run(app, "cipherward-coordinator")


@app.command()
def simulate(
    plan: Annotated[Path, typer.Argument(help="The study's plan, such as configs/demo.yaml.")],
    out: Annotated[Path | None, typer.Option(help="The study's folder; default runs/STUDY.")] = None,
    images: Annotated[Path | None, typer.Option(help="Image folder, in place of the plan's.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Weights file, in place of the plan's.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="key=value, in place of the plan's; repeatable.")
    ] = None,
    until: Annotated[
        str, typer.Option(help="Stop after: seal, train, baseline, attack, score, report.")
    ] = "report",
) -> None:
    """Run a whole study on this machine: seal, train by a real `flwr run`, attack, score, report.

    Run it again to go on where it stopped. Exit status 1 where a control failed: the report is invalid.
    """
    import time

    from coordinator.adversary.registry import ATTACKS
    from coordinator.exchange.plan import read_plan
    from coordinator.study.simulate import STEPS
    from coordinator.study.simulate import simulate as run_study

    if until not in STEPS:
        raise unknown("step", until, STEPS)
    overrides: dict[str, Any] = {}
    for setting in settings or []:
        name, equals, value = setting.partition("=")
        if not equals:
            raise CipherwardError(f"--set {setting!r} is not key=value", "for example: --set rounds=3")
        try:
            overrides[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise CipherwardError(f"--set {setting!r}: the value is not YAML") from None
    overrides |= {k: str(v) for k, v in (("images", images), ("weights", weights)) if v is not None}
    read = read_plan(plan, overrides)
    for name in read.attacks:
        if name not in ATTACKS:
            raise unknown("attack", name, ATTACKS)
    folder = (out or Path("runs") / read.study).resolve()
    started = time.monotonic()
    made = run_study(read, folder, until, lambda line: talk.print(f"· {line}"))
    if made is None:
        result.print(str(folder))
        return
    for line in summary(made):
        result.print(line)
    result.print(f"{time.monotonic() - started:.0f} s in this run")
    result.print(f"report: {folder / 'report.html'}")
    _require_valid(made)


def summary(report: dict[str, Any]) -> list[str]:
    """A report in a few lines for a terminal."""
    from coordinator.report.wording import linked

    lines = []
    training = report["training"]
    if training:
        line = f"test accuracy {training['test_accuracy']:.3f} federated on ciphertext"
        if training["plain_accuracy"] is not None:
            line += f", {training['plain_accuracy']:.3f} on plain images"
        if training["wrong_key"]:
            line += f", {training['wrong_key']['mean']:.3f} under wrong keys"
        lines.append(line)
        if training["linear_accuracy"] is not None:
            lines.append(
                f"without a ViT: {training['linear_accuracy']:.3f} linear on pixels, "
                f"{training['histogram_accuracy']:.3f} nearest histogram"
            )
    verdict, name = report["verdict"], report["scheme"]["name"]
    if not report["valid"]:
        failed = [k for k, v in report["controls"].items() if not v["ok"]]
        lines.append(f"INVALID: control failed: {', '.join(failed)}")
    elif verdict["broken"]:
        images = (
            "one sealed image"
            if verdict["smallest_pool"] == 1
            else f"{verdict['smallest_pool']} sealed images"
        )
        lines.append(
            f"verdict: {name} is BROKEN by {', '.join(verdict['broken_by'])}, "
            f"from {images}, in {verdict['seconds']:.2f} s"
        )
    elif not verdict["pool_attacked"]:
        lines.append(f"verdict: none on {name}: no attack was run that could use a pool")
    else:
        lines.append(
            f"verdict: {name} not broken by {report['suite']} up to {verdict['largest_pool']} images"
        )
    if report["valid"]:
        lines.append(f"  {linked(report)}")
    return lines + [f"  mind: {doubt}" for doubt in report["doubts"]]


def _require_valid(report: dict[str, Any]) -> None:
    if not report["valid"]:
        failed = [f"{k} ({v['said']})" for k, v in report["controls"].items() if not v["ok"]]
        raise CipherwardError(
            f"the report is invalid: {'; '.join(failed)}",
            "a failed control means that the audit, not the scheme, is in doubt",
        )


@app.command()
def train(
    plan: Annotated[Path, typer.Argument(help="The study's plan.")],
    sealed: Annotated[
        list[Path], typer.Argument(help="Each hospital's folder of sealed sets: train, val and test.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the model and the journal.")] = Path("cloud"),
) -> None:
    """Train on the hospitals' sealed images alone, without a federation. Run again, it goes on where it stopped."""
    from coordinator.exchange.plan import read_plan
    from coordinator.federation.central import train_centrally

    made = train_centrally(
        read_plan(plan, {"train": "central"}), sealed, out, lambda line: talk.print(line)
    )
    result.print(f"test accuracy {made['test']['mean']['accuracy']:.3f}, of round {made['best_round']}")
    result.print(str(out / "model.safetensors"))


@app.command()
def classify(
    query: Annotated[Path, typer.Argument(help="A sealed set of images to name the classes of.")],
    model: Annotated[Path, typer.Option(help="A model that reads ciphertext (stem learn).")],
    out: Annotated[Path, typer.Option(help="Where the answers go.")] = Path("answers.json"),
) -> None:
    """Answer an encrypted query: the class and probabilities of every sealed image."""
    from coordinator.model.query import answer, open_model
    from crypto.sets.dataset import SealedDataset

    answers = answer(open_model(model), SealedDataset.open(query))
    write_json(out, answers)
    for row, found in enumerate(answers["answers"]):
        result.print(f"{row:6} {found['class']} {found['probability']:.3f}")
    result.print(str(out))


@app.command()
def attack(
    sealed: Annotated[
        list[Path] | None,
        typer.Argument(help="Sealed sets, or folders of them; the first is the one scored."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Where the guesses go.")] = Path("guesses"),
    attacks: Annotated[
        str,
        typer.Option(
            help="Attacks by name, with commas; default suite/1's, and those that --public and --study allow."
        ),
    ] = "",
    public: Annotated[
        Path | None, typer.Option(help="Folder of public plain images, for the attacks of tier T2.")
    ] = None,
    pools: Annotated[str, typer.Option(help="Pool sizes, with commas.")] = "",
    study: Annotated[
        Path | None,
        typer.Option(help="Folder of a study that trained, for attacks on what the cloud saw of it."),
    ] = None,
    rows: Annotated[int, typer.Option(min=16, help="Images to guess for the score.")] = 128,
    seed: Annotated[int, typer.Option(min=0, help="Draws rows and pools.")] = 0,
    budget: Annotated[
        str, typer.Option(help="Time an attack may take at one pool size: seconds, or 90s, 10m, 1h.")
    ] = "10m",
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Attacks side by side, each in a process of one thread; default all cores, 1 in this process. "
            "Guesses are the same; seconds are those of attacks that share the machine.",
        ),
    ] = None,
    ray: Annotated[
        str,
        typer.Option(
            help="Run the attacks on the Ray cluster at this address, or `local`. Workers open sealed sets and "
            "write guesses by path: both must be on storage that all nodes share."
        ),
    ] = "",
    listing: Annotated[bool, typer.Option("--list", help="List the attacks.")] = False,
) -> None:
    """Attack sealed sets with ciphertexts only, and freeze the guesses for scoring.

    Stop it whenever you like: the same command goes on with the guesses that are not there yet.
    """
    from rich.table import Column, Table

    from coordinator.adversary.contract import Tier
    from coordinator.adversary.registry import ATTACKS
    from coordinator.adversary.run.public_images import read_public
    from coordinator.adversary.run.suite import POOLS, Settings, Where, find_sets, run_suite
    from coordinator.report.build import ATTACKS as ALWAYS

    if listing:
        table = Table(Column("attack", no_wrap=True), "tier", "needs", "breaks", "source")
        for about in ATTACKS.values():
            table.add_row(about.name, about.tier.name, about.needs, about.breaks, about.source)
        result.print(table)
        return
    if not sealed:
        raise CipherwardError("no sealed set to attack", "name one: cipherward-coordinator attack SEALED")
    sets = find_sets(sealed)
    tiers = {tier for tier, given in ((Tier.T2, public), (Tier.T5, study)) if given is not None}
    usual = [
        a for a, about in ATTACKS.items() if about.in_suite and not about.by_name and about.tier in tiers
    ]
    settings = Settings(
        attacks=[a for a in attacks.split(",") if a] or [*ALWAYS, *usual],
        pools=sizes(pools) or list(POOLS),
        rows=rows,
        seed=seed,
        budget_s=seconds(budget),
        public=None if public is None else read_public(public, sets[0].spec.image_shape),
        study=study,
    )
    where = Where(jobs or cores(), ray)
    draws = run_suite(sets, out, settings, lambda line: talk.print(line), where)
    count = sum(len(d.guesses) for d in draws)
    result.print(f"{out}: {count} guesses about {len(draws)} draws, frozen")


@app.command()
def report(
    scores: Annotated[Path, typer.Argument(help="scores.json from the scoring hospital.")],
    guesses: Annotated[Path, typer.Option(help="The guesses that were scored.")],
    sealed: Annotated[Path, typer.Option(help="The sealed set that was scored, for the pictures.")],
    out: Annotated[Path, typer.Option(help="Folder for report.json and report.html.")] = Path(),
    study: Annotated[
        Path | None, typer.Option(help="The study's folder, for the training's figures.")
    ] = None,
    public_plain: Annotated[
        Path | None, typer.Option(help="Plain pictures of a public source, as `score` wrote them.")
    ] = None,
    allow_invalid: Annotated[bool, typer.Option(help="Exit 0 even where a control failed.")] = False,
) -> None:
    """Write report.json and report.html: the verdict, the figures, sealed images and guesses."""
    from coordinator.adversary.run.cell import study_digest
    from coordinator.exchange.guesses import read_draws
    from coordinator.exchange.plan import FILE, plan_in
    from coordinator.report.build import build_report, read_scores
    from coordinator.report.page import render
    from coordinator.report.pictures import gather, with_public_plain
    from coordinator.report.training_section import training_of
    from crypto.sets.dataset import SealedDataset

    numbers = read_scores(scores)
    watched = read_draws(guesses)[1].get("study")
    if study is not None and watched and study_digest(study) != watched:
        raise CipherwardError(
            f"the attacks watched another training than that in {study}", "name the study that they watched"
        )
    name = plan_in(study / FILE).study if study is not None else "audit"
    made = build_report(numbers, name, training_of(study))
    pictures = gather(guesses, made, numbers, SealedDataset.open(sealed))
    if public_plain is not None:
        pictures = with_public_plain(pictures, public_plain)
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    write_text(out / "report.html", render({**made, "public": public_plain is not None}, pictures))
    write_json(out / "report.json", made)
    for line in summary(made):
        result.print(line)
    result.print(str(out / "report.html"))
    if not allow_invalid:
        _require_valid(made)


@app.command()
def weights(
    model: Annotated[str, typer.Argument(help="timm's name, with a tag if you like.")],
    out: Annotated[Path, typer.Argument(help="The safetensors file to write.")],
) -> None:
    """Fetch a model's pretrained weights from timm's hub into a file that a plan can name.

    The only command that asks a network beyond the federation's own.
    """
    from coordinator.model.hub import fetch_weights

    result.print(f"{out}: SHA-256 {fetch_weights(model, out)}")


@app.command()
def env() -> None:
    """Print the variables that keep Flower and Ray quiet and offline: eval "$(cipherward-coordinator env)"."""
    from coordinator.study.flower_run import QUIET

    for name, value in QUIET.items():
        result.print(f"export {name}={value}")


if __name__ == "__main__":
    main()
