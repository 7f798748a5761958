"""What a migration would do, read from both ends: nothing is written, made or reserved.

A refusal ends it before anything is touched; a note says what will not be as it was.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from ops.migrate.places import Place, free_bytes
from ops.migrate.server import encoded
from ops.migrate.side import NEVER_MOVED, CollectionInfo, MigrationError, Side, VectorSpec
from ops.migrate.state import Migration, Mode, Move, Switch, new_id
from ops.restore.answers import readable

SAMPLE = 256  # points that sizes and the time are estimated from
WIDTH = {"float32": 4, "float16": 2, "uint8": 1}  # bytes of a number
INDEX_SHARE = 1.5  # of the vectors: what the index and Qdrant's own lists add
ROOM = 2.0  # of all of it: the optimizer copies what it works on
WAL = 96 * 1024 * 1024  # bytes of a collection without a point
MANY = 100_000  # points, from which carrying the index pays
READS = {True: ", reads its snapshots", False: ", cannot read its snapshots", None: ""}
ModeWish = Literal["auto", "stream", "snapshot", "reindex"]


@dataclass(frozen=True)
class Wish:
    """What the person asked for. `names` empty: every collection; `new_name` for a single one."""

    names: tuple[str, ...] = ()
    new_name: str = ""
    aliases: tuple[str, ...] = ()
    mode: ModeWish = "auto"
    live: bool = True


@dataclass
class Row:
    """One collection. `bytes` and `seconds` are estimates; `vectors` are words for a person."""

    name: str
    target: str
    points: int
    vectors: list[str]
    indexes: list[str]
    quantization: str
    aliases: list[str]
    shards: int
    shard_keys: list[str]
    bytes: int
    seconds: float


@dataclass
class Plan:
    """`refusals`: why it cannot be done; `notes`: what will differ. `free` None: unknown."""

    source: str
    destination: str
    source_version: str
    destination_version: str
    mode: Mode
    why: str
    rows: list[Row] = field(default_factory=list)
    switches: list[Switch] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    needed: int = 0
    free: int | None = None
    live: bool = True
    readable: bool | None = None  # the target a snapshot of the source; None: it makes none
    unmovable: list[str] = field(default_factory=list)  # the refusals that no other name ends

    def to_json(self) -> dict[str, Any]:
        switches = [each.model_dump() for each in self.switches]
        return {"schema_version": 1} | asdict(self) | {"switches": switches}

    def migration(self) -> Migration:
        """Raises MigrationError with every refusal."""
        if self.refusals:
            raise MigrationError(f"nothing was touched: {'; '.join(self.refusals)}")
        return Migration(
            id=new_id(),
            source=self.source,
            destination=self.destination,
            mode=self.mode,
            created=datetime.now(UTC),
            live=self.live,
            moves=[Move(name=row.name, target=row.target, points=row.points) for row in self.rows],
            switches=self.switches,
        )


def make_plan(source: Side, target: Side, ends: tuple[Place, Place], wish: Wish) -> Plan:
    """Read both sides. Raises UnreachableError, ServiceError (a wrong key); MigrationError for
    what was asked and is not there."""
    names = _names(source, wish)
    infos = {name: source.info(name) for name in names}
    versions = source.version(), target.version()
    mode, why, refusals = _mode(source, target, versions, infos, wish.mode)
    plan = Plan(ends[0].text, ends[1].text, *versions, mode, why, refusals=refusals, live=wish.live)
    if not target.is_server:
        plan.refusals.append(f"{target.name} is a local folder: it can only be read from")
        return plan
    _name_targets(plan, source, target, infos, wish)
    _lead_aliases(plan, target, infos, wish)
    plan.readable = readable(*versions) if source.is_server else None
    plan.unmovable = _unmovable(infos)
    plan.refusals += plan.unmovable
    plan.notes += _notes(source, infos, ends, versions)
    plan.needed = sum(round(row.bytes * ROOM) + WAL for row in plan.rows)
    plan.free = free_bytes(ends[1])
    if plan.free is not None and plan.free < plan.needed:
        plan.refusals.append(
            f"{target.name} has {size(plan.free)} free, and {size(plan.needed)} are needed"
        )
    return plan


def _names(source: Side, wish: Wish) -> list[str]:
    there = source.collections()
    if own := [name for name in wish.names if name in NEVER_MOVED]:
        raise MigrationError(f"{own[0]} holds the tokens of one server, and is never moved")
    if lost := [name for name in wish.names if name not in there]:
        listed = ", ".join(there) or "none"
        raise MigrationError(f"{source.name} has no collection {lost[0]} (it has: {listed})")
    if not there:
        raise MigrationError(f"{source.name} has no collection to move")
    names = list(wish.names) or there
    if wish.new_name and len(names) > 1:
        raise MigrationError("--as names one collection", "--collection <the one>")
    return names


def _mode(
    source: Side,
    target: Side,
    versions: tuple[str, str],
    infos: dict[str, CollectionInfo],
    wish: ModeWish,
) -> tuple[Mode, str, list[str]]:
    """The mode, why, and what stands against it."""
    servers = source.is_server and target.is_server
    fits = servers and readable(*versions)
    if wish == "snapshot":
        if not servers:
            return "snapshot", "", ["a local folder has no snapshots: --mode stream"]
        if not fits:
            said = f"Qdrant {versions[1]} cannot read a snapshot of {versions[0]}: --mode stream"
            return "snapshot", "", [said]
        return "snapshot", "as asked", []
    if wish == "stream":
        return "stream", "as asked", []
    if not servers:
        return "stream", "a local folder has no snapshots", []
    if not fits:
        return "stream", f"{versions[1]} cannot read a snapshot of {versions[0]}", []
    if max(info.points for info in infos.values()) < MANY:
        return "stream", f"under {MANY} points the index is soon built anew", []
    return "snapshot", "the versions fit, and the index comes along", []


def _name_targets(
    plan: Plan, source: Side, target: Side, infos: dict[str, CollectionInfo], wish: Wish
) -> None:
    taken = set(target.collections()) | set(target.aliases()) | NEVER_MOVED
    for name, info in infos.items():
        new = wish.new_name or _free_name(name, taken)
        if new in taken:
            plan.refusals.append(f"{target.name} has {new} already, and it is never written over")
        taken.add(new)
        plan.rows.append(_row(source, info, new))
        if info.status == "red":
            plan.refusals.append(f"{name} is red on {source.name}: see its log first")


def _free_name(name: str, taken: set[str]) -> str:
    if name not in taken:
        return name
    dated = f"{name}-{datetime.now(UTC):%Y%m%d}"
    new, number = dated, 2
    while new in taken:
        new, number = f"{dated}-{number}", number + 1
    return new


def _lead_aliases(plan: Plan, target: Side, infos: dict[str, CollectionInfo], wish: Wish) -> None:
    """The source's aliases, the asked ones, and one that bears the collection's own name."""
    collections, there = set(target.collections()), target.aliases()
    if wish.aliases and len(plan.rows) > 1:
        plan.refusals.append("--alias leads to one collection: add --collection <the one>")
        return
    for row in plan.rows:
        own = [row.name] if row.name in there and row.name != row.target else []
        for alias in sorted({*row.aliases, *wish.aliases, *own}):
            if alias in collections or alias == row.target:
                plan.refusals.append(
                    f"the alias {alias} cannot be led: a collection of {target.name} is called so"
                )
                continue
            led_to = there.get(alias, "")
            plan.switches.append(Switch(alias=alias, target=row.target, led_to=led_to))
            if led_to and (said := _unlike(infos[row.name], target.info(led_to))):
                plan.refusals.append(f"the alias {alias} leads to {led_to}, which has {said}")


def _unlike(new: CollectionInfo, old: CollectionInfo) -> str:
    """Why whoever asks through one alias could not ask the other; "" where they could."""

    def shape(vectors: dict[str, VectorSpec]) -> dict[str, tuple[int, str]]:
        return {name: (spec.size, spec.distance) for name, spec in vectors.items()}

    if shape(new.vectors) == shape(old.vectors) and new.sparse.keys() == old.sparse.keys():
        return ""
    return f"{', '.join(_words(old))}, not {', '.join(_words(new))}"


def _unmovable(infos: dict[str, CollectionInfo]) -> list[str]:
    return [
        f"{name} has shard keys of its own ({_keys(info)}), which neither stream nor snapshot "
        "carries over"
        for name, info in infos.items()
        if info.config["params"].get("sharding_method") == "custom"
    ]


def _keys(info: CollectionInfo) -> str:
    return ", ".join(str(key) for key in info.shard_keys[:10]) or "none made"


def _notes(
    source: Side,
    infos: dict[str, CollectionInfo],
    ends: tuple[Place, Place],
    versions: tuple[str, str],
) -> list[str]:
    notes = []
    if not source.is_server:
        notes.append(
            "the client keeps no payload indexes, quantization and index settings in its folder: "
            "the new collection has Qdrant's own; make indexes before it is filtered"
        )
    elif _minor(versions[0]) > _minor(versions[1]):
        notes.append(
            f"{versions[1]} is older than {versions[0]}: a setting it does not know is left out"
        )
    for name, info in infos.items():
        replicas = info.config["params"].get("replication_factor") or 1
        if replicas > 1:
            notes.append(f"{name} asks for {replicas} replicas; a single server keeps one")
    notes.append("keys, tokens of developers, snapshots and logs stay where they are")
    plain = [end for end in ends if end.kind == "url" and end.text.startswith("http://")]
    notes += [
        f"{end.text} is not encrypted: whoever is between reads the key and every point"
        for end in plain
        if not end.text.startswith(("http://127.", "http://localhost", "http://[::1]"))
    ]
    return notes


def _minor(version: str) -> tuple[int, ...]:
    parts = version.removeprefix("v").split(".")[:2]
    return tuple(int(part) for part in parts if part.isdigit())


def _row(source: Side, info: CollectionInfo, target: str) -> Row:
    begun = time.monotonic()
    page = source.page(info.name, limit=SAMPLE)
    seconds = time.monotonic() - begun
    return Row(
        name=info.name,
        target=target,
        points=info.points,
        vectors=_words(info),
        indexes=sorted(f"{field} ({_kind(schema)})" for field, schema in info.indexes.items()),
        quantization=", ".join(info.config.get("quantization_config") or {}) or "none",
        aliases=list(info.aliases),
        shards=info.shards,
        shard_keys=[str(key) for key in info.shard_keys],
        bytes=round(info.points * _point_bytes(info, page.records())),
        # reading was measured alone; writing takes about as long, and four workers share both
        seconds=round(seconds / page.count * info.points, 3) if page.count else 0.0,
    )


def _point_bytes(info: CollectionInfo, sample: Sequence[Any]) -> float:
    if not sample:
        return 0.0
    total = 0.0
    for record in sample:
        named = record.vector if isinstance(record.vector, dict) else {"": record.vector}
        for name, vector in named.items():
            spec = info.vectors.get(name)
            total += _numbers(vector) * (WIDTH.get(spec.datatype, 4) if spec else 4) * INDEX_SHARE
        total += len(encoded([record.payload])) * INDEX_SHARE
    return total / len(sample)


def _numbers(vector: Any) -> int:
    if isinstance(vector, dict):
        return sum(_numbers(part) for part in vector.values())
    if isinstance(vector, list):
        return (
            sum(_numbers(part) for part in vector)
            if vector and isinstance(vector[0], list)
            else len(vector)
        )
    return 0


def _words(info: CollectionInfo) -> list[str]:
    words = [
        " ".join(
            filter(
                None,
                [
                    name or "one without a name:",
                    f"{spec.size} {spec.distance}",
                    "" if spec.datatype == "float32" else spec.datatype,
                    "multivector" if spec.multi else "",
                ],
            )
        )
        for name, spec in sorted(info.vectors.items())
    ]
    return words + [f"{name} sparse" for name in sorted(info.sparse)] or ["no vectors"]


def _kind(schema: Any) -> str:
    return str(schema.get("type", "?")) if isinstance(schema, dict) else str(schema)


def size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def lines(plan: Plan) -> list[str]:
    """The plan for a person: what it comes to first."""
    points = sum(row.points for row in plan.rows)
    verdict = "cannot be done" if plan.refusals else f"{plan.mode}, because {plan.why}"
    if plan.why == "as asked" and not plan.refusals:
        verdict = f"{plan.mode}, as asked"
    text = [
        f"{counted(len(plan.rows), 'collection')}, {counted(points, 'point')}: {verdict}",
        f"  from  {plan.source} ({plan.source_version})",
        f"  to    {plan.destination} ({plan.destination_version}{READS[plan.readable]})",
    ]
    for row in plan.rows:
        new = "" if row.target == row.name else f" as {row.target}"
        estimate = f"{size(row.bytes)}, about {row.seconds:.0f} s"
        text += [
            f"  {row.name}{new}: {row.points} points, {estimate}",
            f"    vectors       {'; '.join(row.vectors)}",
            f"    indexes       {', '.join(row.indexes) or 'none'}",
            f"    quantization  {row.quantization}; shards: {row.shards}",
        ]
    for switch in plan.switches:
        before = f", now {switch.led_to}" if switch.led_to else ""
        text.append(f"  at the cutover the alias {switch.alias} leads to {switch.target}{before}")
    free = "unknown; look yourself" if plan.free is None else size(plan.free)
    text.append(f"  disk: needed {size(plan.needed)}, free {free}")
    text += [f"  note: {note}" for note in plan.notes]
    return text + [f"  refused: {refusal}" for refusal in plan.refusals]


def counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
