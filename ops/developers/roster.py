"""The text of developers.toml, edited as a person would: comments, order and line ends stay.

Pure. An edit is believed only when the file, read again, says what it should and nothing else.
"""

from __future__ import annotations

import copy
import difflib
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import Array

from ops.errors import SettingsError
from ops.settings.addresses import short
from ops.settings.people import Developer

FILE = "developers.toml"
Document = dict[str, Any]


def add(text: str, name: str, fields: Developer) -> str:
    """`text` with a person more, at its end. Raises SettingsError for a name that is taken."""
    before = _read(text)
    if name in before.get("developers", {}):
        raise SettingsError(
            f"{name} is in {FILE} already", f"stackroom developer show {name} says with what"
        )
    wanted = copy.deepcopy(before)
    wanted.setdefault("developers", {})[name] = written = _written(fields)

    def in_an_inline_table() -> str:
        document = tomlkit.parse(text)
        table = tomlkit.inline_table()
        table.update(written)
        document["developers"][name] = table
        return tomlkit.dumps(document)

    return _first(wanted, lambda: _appended(text, name, written), in_an_inline_table)


def remove(text: str, name: str) -> str:
    """`text` without that person, and without the comments that are about them alone.

    Those are the comments in their table, and the ones right above it that name them. Raises
    SettingsError for a name that is not there.
    """
    wanted = copy.deepcopy(_read(text))
    del _person(wanted, name)[name]

    def by_the_library() -> str:
        document = tomlkit.parse(text)
        del document["developers"][name]
        return tomlkit.dumps(document)

    return _first(wanted, lambda: _cut_out(text, name), by_the_library)


def change(text: str, name: str, **fields: Any) -> str:
    """`text` with other values for one person; a value that is the default takes its line away.

    `fields` are those of Developer. Raises SettingsError for a name that is not there, and
    ValueError for fields that Developer does not have.
    """
    unknown = fields.keys() - Developer.model_fields.keys()
    if unknown:
        raise ValueError(f"no fields of a developer: {', '.join(sorted(unknown))}")
    if "addresses" in fields:
        fields["addresses"] = [short(address) for address in fields["addresses"]]
    wanted = copy.deepcopy(_read(text))
    person = _person(wanted, name)[name]
    set_to = {key: value for key, value in fields.items() if not _is_default(key, value)}
    for key in fields:
        person.pop(key, None)
    person |= set_to

    def in_its_own_table() -> str:
        lines = _Lines.of(text)
        place = lines.table(name)
        block = "".join(lines.all[place.first : place.end])
        ended = block.endswith("\n")
        document = tomlkit.parse(block.replace("\r\n", "\n") + ("" if ended else "\n"))
        _set(document["developers"][name], fields, set_to)
        changed = tomlkit.dumps(document)
        changed = changed if ended else changed.removesuffix("\n")
        new = changed.replace("\n", lines.end_of_line)
        return "".join([*lines.all[: place.first], new, *lines.all[place.end :]])

    def by_the_library() -> str:
        document = tomlkit.parse(text)
        _set(document["developers"][name], fields, set_to)
        return tomlkit.dumps(document)

    return _first(wanted, in_its_own_table, by_the_library)


def diff(old: str, new: str) -> str:
    """What differs, as `diff -u` prints it; empty where nothing does."""
    lines = difflib.unified_diff(
        old.splitlines(), new.splitlines(), f"{FILE} (as it is)", f"{FILE} (changed)", lineterm=""
    )
    return "".join(f"{line}\n" for line in lines)


def _read(text: str) -> Document:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{FILE} is not valid TOML: {error}") from None


def _person(document: Document, name: str) -> Document:
    """The table of developers, which has that person."""
    people: Document = document.get("developers", {})
    if name not in people:
        close = difflib.get_close_matches(name, people, n=1)
        meant = f"; did you mean {close[0]}?" if close else ""
        listed = ", ".join(people) or "nobody"
        raise SettingsError(f"there is no developer {name!r} (listed: {listed}){meant}")
    return people


def _first(wanted: Document, *ways: Callable[[], str]) -> str:
    """The first edit that leads to what is wanted, read with the standard library's parser."""
    for way in ways:
        try:
            text = way()
            if _told(tomllib.loads(text)) == _told(wanted):
                return text
        except (AttributeError, LookupError, TypeError, ValueError, TOMLKitError):
            continue
    raise SettingsError(
        f"{FILE} is written in a way that only a person can edit",
        "write a table [developers.<name>] for each developer, then try again",
    )


def _told(document: Document) -> Document:
    """A table of nobody says as much as none."""
    return {key: value for key, value in document.items() if value or key != "developers"}


def _is_default(key: str, value: Any) -> bool:
    field = Developer.model_fields[key]
    return not field.is_required() and bool(value == field.default)


def _written(fields: Developer) -> Document:
    """The keys worth a line, in the order in which the example has them."""
    values = {key: getattr(fields, key) for key in Developer.model_fields}
    values["addresses"] = [short(address) for address in fields.addresses]
    # whoever may use a collection is told with which right
    told = {"access"} if fields.collections else set()
    return {k: v for k, v in values.items() if k in told or not _is_default(k, v)}


def _set(table: Any, fields: Document, set_to: Document) -> None:
    for key in fields:
        if key not in set_to:
            table.pop(key, None)
        elif isinstance(table.get(key), Array):
            _set_list(table, key, list(set_to[key]))
        else:
            table[key] = set_to[key]


def _set_list(table: Any, key: str, wanted: list[Any]) -> None:
    """One entry at a time, so that the others keep their lines and comments."""
    array = table[key]
    for index in reversed(range(len(array))):
        if array[index] not in wanted:
            del array[index]
    for value in wanted:
        if value not in array:
            array.append(value)
    if list(array) != wanted:
        table[key] = wanted


# the text, line by line


@dataclass(frozen=True)
class _Place:
    """Lines of one person's table: [above, first) comments about them, [first, end) the table."""

    above: int
    first: int
    end: int


@dataclass(frozen=True)
class _Lines:
    all: list[str]  # each with its end
    end_of_line: str

    @classmethod
    def of(cls, text: str) -> _Lines:
        return cls(re.findall(r"[^\n]*\n|[^\n]+", text), "\r\n" if "\r\n" in text else "\n")

    def is_blank(self, at: int) -> bool:
        return 0 <= at < len(self.all) and not self.all[at].strip()

    def is_comment(self, at: int) -> bool:
        return 0 <= at < len(self.all) and self.all[at].lstrip().startswith("#")

    def table(self, name: str) -> _Place:
        """Where [developers.<name>] stands. Raises ValueError where no header says so."""
        (first,) = [at for at in self._headers() if self._names(at) == ["developers", name]]
        after = [at for at in self._headers() if at > first]
        following = after[0] if after else len(self.all)
        end = following
        while self.is_blank(end - 1) or self.is_comment(end - 1):
            end -= 1
        # a comment at once below the last value is about it, one above a header about that
        trailing = end
        while self.is_comment(trailing):
            trailing += 1
        if trailing < following or not after:
            end = trailing
        above = first
        while self.is_comment(above - 1):
            above -= 1
        about = "".join(self.all[above:first])
        if not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", about, re.IGNORECASE):
            above = first
        return _Place(above, first, end)

    def _headers(self) -> list[int]:
        return [at for at, line in enumerate(self.all) if re.match(r"\s*\[.*\]\s*(#.*)?$", line)]

    def _names(self, at: int) -> list[str]:
        try:
            here: Any = tomllib.loads(self.all[at])
        except tomllib.TOMLDecodeError:  # a line of a list, not a header
            return []
        names = []
        while isinstance(here, dict) and here:
            ((key, here),) = here.items()
            names.append(key)
        return names


def _appended(text: str, name: str, written: Document) -> str:
    end = _Lines.of(text).end_of_line
    values = [f"{key} = {tomlkit.item(value).as_string()}" for key, value in written.items()]
    block = end.join([f"[developers.{name}]", *values])
    if not text:
        return block + end
    # a file without an end of its last line stays one
    return text + end + block + end if text.endswith("\n") else text + end + end + block


def _cut_out(text: str, name: str) -> str:
    lines = _Lines.of(text)
    place = lines.table(name)
    before, after = lines.all[: place.above], lines.all[place.end :]
    if lines.is_blank(place.above - 1):
        before = before[:-1]
    elif not before and after and not after[0].strip():
        after = after[1:]
    if not text.endswith("\n") and not after and before:
        before[-1] = before[-1].removesuffix("\n").removesuffix("\r")
    return "".join([*before, *after])
