"""The stack of an environment, whichever of them its settings name."""

from __future__ import annotations

from ops.render import qdrant, r2r
from ops.render.project import FolderBuild, GitBuild, Stack, images_of, put_together
from ops.settings import Environment, Settings

# of every stack: a machine that has one of them carries that stack
DATA_VOLUMES = {"qdrant": qdrant.DATA_VOLUME, "r2r": r2r.DATA_VOLUME}


def render_stack(environment: Environment, memory_mib: int, cpus: int) -> Stack:
    """The stack of an environment on a host with `memory_mib` MiB of memory and `cpus` cores.

    Raises SettingsError where the host is too small, or a secret or a key cannot be as it is.
    """
    if environment.settings.stack == "r2r":
        return put_together(r2r.r2r_plan(environment, memory_mib, cpus))
    return put_together(qdrant.qdrant_plan(environment, memory_mib, cpus))


def pinned_images(settings: Settings) -> list[str]:
    """The images that a host has to pull, or be given; one that it builds is not among them."""
    built = _build(settings)
    return [image for image in _images(settings) if not built or image != built.image]


def carried_images(settings: Settings) -> list[str]:
    """The images for a machine that has no registry: the pinned ones, and what we build ourselves.

    What is built from a git repository is that machine's own to build.
    """
    built = _build(settings)
    return _images(settings) if isinstance(built, FolderBuild) else pinned_images(settings)


def _build(settings: Settings) -> GitBuild | FolderBuild | None:
    return r2r.build() if settings.stack == "r2r" else qdrant.build(settings)


def _images(settings: Settings) -> list[str]:
    if settings.stack == "r2r":
        return images_of(r2r.compose_files(settings).values(), r2r.versions(settings))
    return images_of(qdrant.compose_files(settings).values(), qdrant.versions(settings))
