"""What a verification found, for machines and for people. No payload and no vector is in it."""

from __future__ import annotations

from collections.abc import Iterator
from math import lgamma, log
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict

from ops.migrate.compare import Found, Kind
from ops.migrate.shape import Unequal
from ops.migrate.side import PointId

Outcome = Literal["same", "different", "unknown"]
EXIT_CODES: dict[Outcome, int] = {"same": 0, "different": 2, "unknown": 3}
CONFIDENCES = (0.95, 0.99)
SHOWN = 10  # differences of a kind, to people


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class End(_Model):
    """One side: what the person called it, and its version."""

    name: str
    version: str


class Bound(_Model):
    """With this confidence no more than `points` of the collection differ."""

    confidence: float
    points: int


class Sample(_Model):
    """Which points stood for all: the same seed and ids choose the same ones. `bounds` hold where
    none of them differed; they are about content alone, for every id was compared."""

    seed: int
    points: int
    bounds: list[Bound]


class RangeReport(_Model):
    """The ids from `start` up to, not with, `end`; None is no bound. Exact counts."""

    start: PointId | None
    end: PointId | None
    source: int
    target: int
    different: int


class PointDifference(_Model):
    """See compare.Found. `largest`: of a vector's components."""

    id: PointId
    kinds: list[Kind]
    vectors: list[str] = []
    largest: float | None = None

    @classmethod
    def of(cls, found: Found) -> PointDifference:
        return cls(
            id=found.id,
            kinds=list(found.kinds),
            vectors=list(found.vectors),
            largest=found.largest,
        )


class CollectionReport(_Model):
    """One collection. `source` and `target` are its names, `source_points` and `target_points` are
    exact and by range in `ranges`. `way` is how content was compared, and `compared` of how many
    points. `rounded` of these are the same but for the rounding that writing them does, by
    `rounding` of a component at most. `different` points are counted by kind (one may be of two)
    and the first of them listed. `noted` settings differ and are no difference: this server has
    them, the older one knew nothing of them. `unknown` says why no more is known."""

    source: str
    target: str
    way: Literal["every point", "sample"]
    sample: Sample | None = None
    source_points: int = 0
    target_points: int = 0
    compared: int = 0
    rounded: int = 0
    rounding: float = 0.0
    different: int = 0
    kinds: dict[Kind, int] = {}
    points: list[PointDifference] = []
    ranges: list[RangeReport] = []
    absent: bool = False
    settings: list[Unequal] = []
    indexes: list[Unequal] = []
    noted: list[Unequal] = []
    unknown: str = ""

    @property
    def differences(self) -> int:
        return self.absent + self.different + len(self.settings) + len(self.indexes)


class Report(_Model):
    """A whole verification. `aliases` is None where they were not compared. `differences` is 0
    only where nothing differs; whether everything was seen, `outcome` says."""

    schema_version: Literal[1] = 1
    started: AwareDatetime
    seconds: float
    source: End
    target: End
    outcome: Outcome
    differences: int
    collections: list[CollectionReport]
    aliases: list[Unequal] | None = None
    unknown: str = ""

    @property
    def exit_code(self) -> int:
        """0 the same, 2 different, 3 not known."""
        return EXIT_CODES[self.outcome]

    def first_line(self) -> str:
        """What it came to, in under 80 characters."""
        many = len(self.collections)
        about = f"{many} collection{'s' * (many != 1)}"
        if self.outcome == "unknown":
            return f"UNKNOWN: not all of {about} could be compared"
        points = sum(each.compared for each in self.collections)
        how = "compared" if all(each.sample is None for each in self.collections) else "sampled"
        if self.outcome == "same":
            return f"SAME: 0 differences in {about}, {points} points {how}"
        return f"DIFFERENT: {self.differences} differences in {about}, {points} points {how}"

    def lines(self) -> Iterator[str]:
        """The whole of it for a person, without what a machine alone reads."""
        yield self.first_line()
        for each in self.collections:
            yield from _of_collection(each)
        for alias in self.aliases or []:
            yield f"alias {alias.what}: source {_said(alias.source)}, target {_said(alias.target)}"
        if self.unknown:
            yield f"not known: {self.unknown}"


def made(
    ends: tuple[End, End],
    started: AwareDatetime,
    seconds: float,
    collections: list[CollectionReport],
    aliases: list[Unequal] | None,
) -> Report:
    """A report with its outcome: a difference that was seen is one, whatever was not seen."""
    differences = sum(each.differences for each in collections) + len(aliases or [])
    unknown = next((each.unknown for each in collections if each.unknown), "")
    return Report(
        started=started,
        seconds=round(seconds, 3),
        source=ends[0],
        target=ends[1],
        outcome="different" if differences else "unknown" if unknown else "same",
        differences=differences,
        collections=collections,
        aliases=aliases,
        unknown=unknown,
    )


def at_most(total: int, drawn: int, confidence: float) -> int:
    """How many of `total` may differ although none of `drawn`, chosen by chance, does.

    The exact answer for drawing without putting back: the most of which less than `confidence`
    of all draws would have shown one.
    """
    low, high = 0, max(total - drawn, 0)
    while low < high:
        middle = (low + high + 1) // 2
        # of all ways to draw, the share that meets none of them
        missed = _ways(total - middle, drawn) - _ways(total, drawn)
        if missed > log(1 - confidence):
            low = middle
        else:
            high = middle - 1
    return low


def _ways(of: int, drawn: int) -> float:
    """The logarithm of a binomial coefficient."""
    return lgamma(of + 1) - lgamma(drawn + 1) - lgamma(of - drawn + 1)


def _of_collection(report: CollectionReport) -> Iterator[str]:
    name = (
        report.source if report.source == report.target else f"{report.source} as {report.target}"
    )
    if report.absent:
        yield f"{name}: the target has no such collection"
        return
    counts = f"{report.source_points} points, target {report.target_points}"
    yield f"{name}: {counts}; {report.differences} differences; {_way(report)}"
    if report.rounded:
        yield f"  {report.rounded} differ by rounding alone, by {report.rounding:.1e} at most"
    for kind, count in report.kinds.items():
        ids = [str(each.id) for each in report.points if kind in each.kinds][:SHOWN]
        if count:
            yield f"  {kind}: {count}: {', '.join(ids)}{', ...' if count > len(ids) else ''}"
    for what, unequal in (("setting", report.settings), ("index", report.indexes)):
        for each in unequal:
            yield f"  {what} {each.what}: source {_said(each.source)}, target {_said(each.target)}"
    if report.unknown:
        yield f"  not known: {report.unknown}"


def _way(report: CollectionReport) -> str:
    if report.sample is None:
        return f"{report.compared} compared, every one of them"
    sample = report.sample
    bounds = ", ".join(f"{each.confidence:.0%}: {each.points}" for each in sample.bounds)
    sure = f"; may differ at most, with {bounds}" if sample.bounds else ""
    return f"every id, and the content of {sample.points} (seed {sample.seed}){sure}"


def _said(value: object) -> str:
    return "has none" if value is None else str(value)
