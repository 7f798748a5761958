"""The sandbox's own images: the Debian base, the host, and whatever is built on that base.

An image carries the hash of its inputs in its tag: same inputs, same tag, nothing to build.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from ops.errors import MissingToolError, ServiceError
from ops.sandbox import engine
from ops.sandbox.layout import IMAGE_FOLDERS, IMAGES, LABEL, STATE

DEBIAN = "trixie"
OLDER_DEBIAN = "bookworm"  # for what does not run with the Python of the newer one
NOT_CONTENT = ("__pycache__", "*.pyc")

Say = Callable[[str], None]


@contextlib.contextmanager
def alone(doing: str) -> Iterator[None]:
    """One process at a time does this: the tests of two machines share what it makes."""
    STATE.mkdir(parents=True, exist_ok=True)
    with (STATE / f"{doing}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def base_image(say: Say, debian: str = DEBIAN) -> str:
    """The Debian base as an image name: kept, else pulled, else built from packages.

    Raises MissingToolError when it can neither be pulled nor built.
    """
    base = f"{IMAGES}/base:{debian}"
    with alone("base"):
        return base if engine.inspect("image", base) else _new_base(say, debian, base)


def _new_base(say: Say, debian: str, base: str) -> str:
    registry_name = f"debian:{debian}"
    had_it = engine.inspect("image", registry_name) is not None
    refusal = "" if had_it else engine.pull(registry_name)
    if refusal:
        say(f"building Debian {debian} from packages, half a minute ({registry_name}: {refusal})")
        _debootstrap(debian, base)
        return base
    engine.docker("tag", registry_name, base)
    if not had_it:
        engine.docker("rmi", registry_name)
    return base


def _debootstrap(debian: str, base: str) -> None:
    if not shutil.which("debootstrap"):
        raise MissingToolError(
            "no registry answers, and this machine lacks debootstrap to build Debian itself",
            "apt-get install debootstrap",
        )
    log = STATE / "debootstrap.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="stackroom-") as folder, log.open("wb") as output:
        # mounts of its own: whatever happens, none is left on this machine
        debootstrap = ["debootstrap", "--variant=minbase", debian, folder]
        made = subprocess.run(
            ["unshare", "--mount", *debootstrap], stdout=output, stderr=output, check=False
        )
        if made.returncode != 0:
            raise ServiceError(f"debootstrap could not build Debian {debian}", f"less {log}")
        for left_over in ("var/cache/apt/archives", "var/lib/apt/lists"):
            shutil.rmtree(Path(folder, left_over))
        with subprocess.Popen(
            ["tar", "--numeric-owner", "-C", folder, "-c", "."], stdout=subprocess.PIPE
        ) as tar:
            command = ["docker", "import", "--change", f"LABEL {LABEL}", "-", base]
            imported = subprocess.run(
                command, stdin=tar.stdout, stdout=output, stderr=output, check=False
            )
        if imported.returncode != 0 or tar.returncode != 0:
            engine.attempt("rmi", base)
            raise ServiceError(f"the Debian {debian} image could not be imported", f"less {log}")


def host_image(say: Say) -> str:
    """The image of the throw-away host, built where its folder or its base has changed."""
    return built_image("host", say)


def built_image(
    name: str,
    say: Say,
    *,
    extra: Mapping[str, Path] | None = None,
    passing: Mapping[str, Path] | None = None,
    label: str = "",
    folder: Path | None = None,
    base: str = "",
) -> str:
    """Build ops/sandbox/images/<name>/ on the base and return its tag; a kept image is returned.

    `folder` and `base` stand for another build folder and another image than Debian's.
    `extra` files are laid into the build context under their names and count as inputs;
    `passing` ones are laid there too but only help the build, so they do not count.
    Raises ServiceError when the build fails.
    """
    folder = folder or IMAGE_FOLDERS / name
    base = base or base_image(say)
    base_id = (engine.inspect("image", base) or {})["Id"]
    extra = dict(extra or {})
    tag = f"{IMAGES}/{name}:{content_hash(folder, extra, f'{base_id} {label}')}"
    labels = [LABEL, f"stackroom.build={name}", *([label] if label else [])]
    with alone(f"build-{name}"):
        if not engine.inspect("image", tag):
            say(f"building the image {name}")
            _build(name, folder, tag, {**extra, **(passing or {})}, {"BASE": base}, labels)
            _remove_older(name, tag)
    return tag


def _build(
    name: str,
    folder: Path,
    tag: str,
    files: Mapping[str, Path],
    arguments: dict[str, str],
    labels: list[str],
) -> None:
    with tempfile.TemporaryDirectory(prefix="stackroom-") as temporary:
        context = Path(temporary, "context")
        shutil.copytree(folder, context, ignore=shutil.ignore_patterns(*NOT_CONTENT))
        for file_name, source in files.items():
            shutil.copy(source, context / file_name)
        engine.build(tag, context, arguments, labels, STATE / f"build-{name}.log")


def content_hash(folder: Path, extra: Mapping[str, Path], more: str) -> str:
    """12 hex digits over the paths, modes and contents of a build folder and what is added."""
    digest = hashlib.sha256(more.encode())
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    for name, path in sorted({**files, **extra}.items()):
        if "__pycache__" in Path(name).parts or name.endswith(".pyc"):
            continue
        executable = path.stat().st_mode & 0o111 != 0
        digest.update(f"\0{name}\0{executable}\0".encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]


def _remove_older(name: str, kept: str) -> None:
    """Images of earlier inputs; one that a container still uses stays until the next build."""
    found = engine.listed(
        *("image", "ls", "--filter", f"label=stackroom.build={name}"),
        *("--format", "{{.Repository}}:{{.Tag}}", f"{IMAGES}/{name}"),
    )
    for tag in found:
        if tag != kept:
            engine.attempt("rmi", tag)


def remove_all() -> None:
    """Every image of the sandbox, whatever made it."""
    for tag in engine.listed("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", f"{IMAGES}/*"):
        engine.docker("rmi", tag)
