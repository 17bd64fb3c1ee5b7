"""The findings of a report, grouped: one row an attack and pool size, over its draws.

How draws are combined: the medians of the draws' figures, the sums of their hits, and the bounds of the draw that is
worst on either side. Each draw is judged alone, so summed rows would feign narrower bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from coordinator.exchange.audit.rates import Rate
from coordinator.exchange.audit.scores import Figures, Grid, KeyShare
from coordinator.exchange.audit.suite1 import breaking_measures
from coordinator.report.records import JudgedFinding, Report


@dataclass(frozen=True)
class Row:
    """One attack at one pool size, over its draws.

    Attributes:
        draws: In how many draws it was run.
        broken: In how many of them it breaks the scheme.
        counts: Whether this is the smallest pool size at which the attack's break counts.
        scored: The findings that have figures; crashed ones have none.
    """

    attack: str
    tier: str
    size: int
    draws: int
    broken: int
    counts: bool
    scored: list[JudgedFinding]

    @property
    def idle(self) -> int:
        """How many times the attack found nothing to try."""
        return sum(finding.idle for finding in self.scored)

    @property
    def is_untried(self) -> bool:
        """Whether the attack tried nothing in any draw: its pictures are those of the ciphertexts."""
        return self.idle == self.draws

    @property
    def uncertain(self) -> int:
        """In how many draws the attack broke nothing, and what it found fits too poorly to say that it failed."""
        return sum(finding.uncertain and not finding.broken for finding in self.scored)

    @property
    def confidence(self) -> float | None:
        """Median confidence of the attack in what it found, 0 to 1; None where it does not say."""
        return _median(finding.confidence for finding in self.scored)

    @property
    def crashed(self) -> int:
        """In how many draws the attack crashed."""
        return self.draws - len(self.scored)

    def breaks_by(self, letter: str) -> int:
        """Return in how many draws K, R or V breaks the scheme."""
        return sum(letter in finding.broken_by for finding in self.scored)

    def breaks_by_look(self, letter: str) -> int:
        """Return in how many draws R or V breaks the scheme by the second look alone."""
        return sum(
            letter in finding.broken_by and letter not in breaking_measures(finding.figures)
            for finding in self.scored
            if finding.figures is not None
        )

    @property
    def broken_by_look(self) -> int:
        """In how many draws the scheme is broken, and only by what the second look shows."""
        return sum(
            finding.broken and not breaking_measures(finding.figures)
            for finding in self.scored
            if finding.figures is not None
        )

    @property
    def letters(self) -> str:
        """Which of K, R and V break the scheme, each with its number of draws."""
        counts = {letter: self.breaks_by(letter) for letter in "KRV"}
        return " · ".join(f"{letter} {n}" for letter, n in counts.items() if n)

    @property
    def ssim(self) -> float | None:
        """Median SSIM of guess and plain image."""
        return self._median(lambda figures: figures.ssim.median if figures.ssim else None)

    @property
    def psnr(self) -> float | None:
        """Median PSNR in dB."""
        return self._median(lambda figures: figures.psnr.median if figures.psnr else None)

    @property
    def key_ssim(self) -> float | None:
        """Median SSIM of images opened with the recovered key."""
        return _median(f.key_opening.median_ssim for f in self._figures if f.key_opening)

    @property
    def grid(self) -> Grid | None:
        """Medians of the measures of assembled blocks."""
        grids = [figures.grid for figures in self._figures if figures.grid]
        if not grids:
            return None
        return Grid(
            direct=median(grid.direct for grid in grids),
            neighbour=median(grid.neighbour for grid in grids),
            largest=median(grid.largest for grid in grids),
        )

    @property
    def block_order(self) -> float | None:
        """Median share of K1 that is right."""
        return self._key_median(lambda key: key.block_order)

    @property
    def pixel_order(self) -> float | None:
        """Median share of K2 that is right."""
        return self._key_median(lambda key: key.pixel_order)

    @property
    def bits_left(self) -> float | None:
        """Median of the bits that stay open."""
        return self._key_median(lambda key: key.bits_left)

    @property
    def seconds(self) -> float | None:
        """Median time."""
        return _median(finding.seconds for finding in self.scored)

    @property
    def baseline(self) -> float | None:
        """Median of the draws' best baselines, as SSIM."""
        return _median(max(f.baseline_ssim.values()) for f in self.scored if f.baseline_ssim)

    @property
    def visible(self) -> Rate | None:
        """V over all draws."""
        return _combined([figures.visible for figures in self._figures])

    @property
    def reidentified(self) -> Rate | None:
        """R over all draws."""
        return _combined([figures.reidentified for figures in self._figures])

    @property
    def second_visible(self) -> Rate | None:
        """V of the second look over all draws; None where it was not measured, or is the orbit's."""
        return _combined([f.second_look.visible for f in self._figures if f.second_look])

    @property
    def second_reidentified(self) -> Rate | None:
        """R of the second look over all draws."""
        return _combined([f.second_look.reidentified for f in self._figures if f.second_look])

    @property
    def readable(self) -> int:
        """In how many draws the second look finds pictures in the negative or turned."""
        return sum(bool(finding.readable_by) for finding in self.scored)

    @property
    def classified(self) -> Rate | None:
        """Guesses of the right class, over all draws."""
        return _combined([figures.classified for figures in self._figures if figures.classified])

    @property
    def _figures(self) -> list[Figures]:
        return [finding.figures for finding in self.scored if finding.figures is not None]

    def _median(self, value_of: Callable[[Figures], float | None]) -> float | None:
        return _median(value_of(figures) for figures in self._figures)

    def _key_median(self, value_of: Callable[[KeyShare], float]) -> float | None:
        return self._median(lambda figures: value_of(figures.key) if figures.key else None)


def _median(values: Iterable[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return median(present) if present else None


def _combined(rates: Sequence[Rate]) -> Rate | None:
    """Return the rate over several draws: hits and cases summed, bounds from the lowest to the highest."""
    if not rates:
        return None
    hits, n = sum(rate.hits for rate in rates), sum(rate.n for rate in rates)
    low, high = min(rate.low for rate in rates), max(rate.high for rate in rates)
    return Rate(hits=hits, n=n, rate=hits / max(1, n), low=low, high=high)


def rows_of(report: Report) -> list[Row]:
    """Return the findings by attack and pool size, in the report's order of attacks, sizes rising."""
    groups: dict[tuple[str, int], list[JudgedFinding]] = {}
    for attack in dict.fromkeys(finding.attack for finding in report.findings):
        same_attack = [finding for finding in report.findings if finding.attack == attack]
        for finding in sorted(same_attack, key=lambda finding: finding.pool_size):
            groups.setdefault((attack, finding.pool_size), []).append(finding)
    return [
        Row(
            attack=attack,
            tier=group[0].tier,
            size=size,
            draws=len(group),
            broken=sum(finding.broken for finding in group),
            counts=report.verdict.broken_at.get(attack) == size,
            scored=[finding for finding in group if finding.figures is not None],
        )
        for (attack, size), group in groups.items()
    ]
