"""Whether two collections are set up alike: vectors, settings, payload indexes, aliases. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from ops.migrate.side import CollectionInfo, Json

OF_VECTORS = ("vectors", "sparse_vectors")  # in params, and told apart there


class Unequal(BaseModel):
    """One thing that is not the same, such as `hnsw_config.m`; None where a side has it not."""

    model_config = ConfigDict(frozen=True)

    what: str
    source: Any = None
    target: Any = None


def compare_settings(
    source: CollectionInfo, target: CollectionInfo, *, whole: bool = True
) -> list[Unequal]:
    """`whole` False is for a source that does not know all settings, such as a folder: then only
    what it has is compared."""
    return _unequal(_settings(source), _settings(target), whole)


def compare_indexes(
    source: CollectionInfo, target: CollectionInfo, *, whole: bool = True
) -> list[Unequal]:
    """Payload indexes by field, with their parameters. `whole` as for the settings."""
    return _unequal(_indexes(source), _indexes(target), whole)


def compare_aliases(
    source: Mapping[str, str], target: Mapping[str, str], names: Mapping[str, str]
) -> list[Unequal]:
    """Each alias of a compared collection has to lead to its counterpart, and no other has to.

    `names`: the target's name of each collection of the source. An alias of the target that has
    the name of the source's collection stands in for it, and is right too.
    """
    wanted = {alias: names[each] for alias, each in source.items() if each in names}
    stands_in = {name: other for name, other in names.items() if name != other}
    there = {
        alias: name
        for alias, name in target.items()
        if alias in wanted or (name in names.values() and stands_in.get(alias) != name)
    }
    return _unequal(wanted, there, True)


def _settings(info: CollectionInfo) -> Json:
    found: Json = {}
    for name, spec in info.vectors.items():
        about = f"vectors.{name}" if name else "vectors"
        plain = {"size": spec.size, "distance": spec.distance, "datatype": spec.datatype}
        found |= dict(_flat(plain | {"multivector_config": spec.multi, **spec.rest}, about))
    for name, params in info.sparse.items():
        about = f"sparse_vectors.{name}"
        found |= {about: "sparse"} | dict(_flat(params, about))
    for part, settings in info.config.items():
        if part == "params":
            settings = {name: each for name, each in settings.items() if name not in OF_VECTORS}
        found |= dict(_flat(settings, part))
    return found


def _indexes(info: CollectionInfo) -> Json:
    found: Json = {}
    for name, given in info.indexes.items():
        params = given if isinstance(given, dict) else {"type": given}
        found |= {name: params.get("type", "index")} | dict(_flat(params, name))
    return found


def _flat(value: Any, about: str) -> Iterator[tuple[str, Any]]:
    """Leaves by path; what is null is not there, as Qdrant means it."""
    if isinstance(value, dict):
        for name, each in value.items():
            yield from _flat(each, f"{about}.{name}")
    elif value is not None:
        yield about, value


def _unequal(source: Mapping[str, Any], target: Mapping[str, Any], whole: bool) -> list[Unequal]:
    return [
        Unequal(what=what, source=source.get(what), target=target.get(what))
        for what in sorted(source.keys() | (target.keys() if whole else set()))
        if source.get(what) != target.get(what)
    ]
