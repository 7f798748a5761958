"""Where the files of a team's api lie: volumes of an environment's machine, or a folder here.

On a machine all of it is done by the tools of Qdrant's own image, in throw-away containers without
a network, as the api's user: a link in a volume leads nowhere from there. What comes in is laid
beside the files, compared, and only then put in its place, so that a file is there whole or not.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Literal, NamedTuple, Protocol, cast

from ops.clients.ssh import Completed, Remote, Streaming
from ops.errors import MissingToolError, ServiceError, UnreachableError
from ops.settings import Environment

KINDS = ("library", "sessions", "configs")
INCOMING = ".stackroom-incoming"
PROJECT = "stackroom"
PIECE = 1024 * 1024  # bytes
CONFINED = (
    "--rm --network none --read-only --cap-drop ALL --security-opt no-new-privileges "
    "--pids-limit 64 --memory 512m --pull never --log-driver none"
)
GONE = "No such file or directory"

Write = Callable[[bytes], object]


class Entry(NamedTuple):
    """`what`: the sha256 of a file, where a link leads, "" for the rest. `size` in bytes."""

    kind: Literal["file", "folder", "link", "other"]
    what: str = ""
    size: int = 0

    @property
    def mark(self) -> str:
        """Two entries of one mark are the same."""
        return f"{self.kind} {self.what}"


Listing = dict[str, Entry]  # by path, such as "library/guides/one.pdf"


class Shelf(Protocol):
    """What is read from. Raises UnreachableError without a login, ServiceError for what is there
    and cannot be read; a file that goes meanwhile is left out."""

    name: str

    def entries(self) -> Listing: ...

    def pour(self, paths: Sequence[str], write: Write) -> None:
        """These, and no more, as one tar."""
        ...


class HostShelf:
    """The three volumes of an environment's api. `image` and `ready` ask the machine."""

    def __init__(self, environment: Environment, *, project: str = PROJECT) -> None:
        self.environment = environment
        self.name = environment.name
        self.remote = Remote(environment)
        self.api = f"{project}-api-1"
        self._qdrant = f"{project}-qdrant-1"
        self._volumes = {kind: f"{project}_api_{kind}" for kind in KINDS}
        self._image = ""

    def ready(self, *, running: bool = False) -> None:
        """Raises MissingToolError where the stack, or the api in it, is not deployed. `running`:
        the api's container must run too."""
        volumes = " ".join(self._volumes.values())
        done = self.remote.run(
            f"docker volume inspect {volumes} >/dev/null && "
            f"docker inspect -f '{{{{.Image}}}} {{{{.State.Running}}}}' {self._qdrant} {self.api}",
            timeout=60,
        )
        found = done.stdout.split()  # image and state of each
        if done.returncode or (running and found[3] != "true"):
            raise MissingToolError(
                f"the api of {self.name} is not deployed, or does not run",
                f"stackroom -e {self.name} deploy",
            )
        self._image = found[0]

    def free_bytes(self) -> int:
        return int(self._run("df -B1 --output=avail library | tail -n 1"))

    def entries(self) -> Listing:
        with self._container(_find(" ".join(KINDS)), subprocess.DEVNULL, write=False) as running:
            said = _output(running).read()
            done = running.ended()
        return self._listed(said, done)

    def pour(self, paths: Sequence[str], write: Write) -> None:
        script = (
            "exec tar --create --format=posix --no-recursion --null --verbatim-files-from "
            "--files-from=- --hard-dereference --ignore-failed-read --mode=u+rwX"
        )
        with _names(paths) as file, self._container(script, file, write=False) as running:
            while piece := _output(running).read(PIECE):
                write(piece)
            done = running.ended()
        # 1: a file changed while it was read, which shows when it is compared
        _good(done, self.name, allowed=(0, 1))

    def receive(self, pour: Callable[[Write], None]) -> Listing:
        """Lay aside what `pour` writes, a tar, and list it by the paths that it will have. What
        lay there before is gone."""
        script = (
            f"umask 077; rm -rf {_aside()} && mkdir {_aside()} && "
            "tar --extract --file=- --same-permissions --delay-directory-restore "
            rf"--transform 'flags=rSH;s,^\([a-z]*\),\1/{INCOMING},' && {_find(_aside())}"
        )
        with self._container(script, subprocess.PIPE, write=True) as running:
            given = cast("IO[bytes]", running.process.stdin)
            with contextlib.suppress(BrokenPipeError):  # it has died: why, is said below
                pour(given.write)
                given.close()
            said = _output(running).read()
            done = running.ended()
        return self._listed(said, _good(done, self.name), INCOMING)

    def put(self) -> None:
        """Put what was received into its place, over what is there. May be done twice."""
        # a link is made at once and takes no room; what it leads to was compared
        each = (
            f"if [ -d {{0}}/{INCOMING} ]; then find {{0}}/{INCOMING} -mindepth 1 -maxdepth 1 "
            "-exec cp -al --remove-destination -t {0} -- {{}} +; fi; sync -f {0}; "
        )
        self._run(f"set -e; {''.join(each.format(kind) for kind in KINDS)} rm -rf {_aside()}")

    def discard(self, paths: Sequence[str]) -> None:
        """Of what was received."""
        aside = [path.replace("/", f"/{INCOMING}/", 1) for path in paths]
        with _names(aside) as file:
            self._run("xargs -0 -r rm -rf --", file)

    def remove(self, paths: Sequence[str], *, folders: bool) -> None:
        """Remove files and links, or folders as far as they are empty."""
        tool = "rmdir --ignore-fail-on-non-empty" if folders else "rm -f"
        if paths:
            with _names(sorted(paths, reverse=True)) as file:
                self._run(f"xargs -0 -r {tool} --", file)

    def _listed(self, said: bytes, done: Completed, aside: str = "") -> Listing:
        wrong = [line for line in done.stderr.splitlines() if not line.endswith(GONE)]
        if wrong or (done.returncode and not done.stderr):
            raise ServiceError(f"{self.name}: {wrong[-1] if wrong else 'the files were not read'}")
        found = parsed(said)
        return {path.replace(f"/{aside}/", "/", 1): entry for path, entry in found.items()}

    def _run(self, script: str, stdin: IO[bytes] | int = subprocess.DEVNULL) -> bytes:
        with self._container(script, stdin, write=True) as running:
            said = _output(running).read()
            _good(running.ended(), self.name)
        return said

    def _container(
        self, script: str, stdin: IO[bytes] | int, *, write: bool
    ) -> contextlib.AbstractContextManager[Streaming]:
        if not self._image:
            self.ready()
        api = self.environment.settings.api
        user = api.user if api else 1000
        mounts = [
            f"--mount type=volume,src={volume},dst=/data/{kind},volume-nocopy"
            + ("" if write else ",readonly")
            for kind, volume in self._volumes.items()
        ]
        command = (
            f"docker run {CONFINED} --interactive --user {user}:{user} {' '.join(mounts)} "
            f"--workdir /data --env LC_ALL=C --entrypoint sh {self._image} "
            f"-c {shlex.quote(script)}"
        )
        return self.remote.stream(command, stdin=stdin)


class FolderShelf:
    """library/, sessions/ and configs/ below a folder of this machine."""

    def __init__(self, root: str) -> None:
        self.name = root
        self._root = Path(root)

    def exists(self) -> bool:
        return any((self._root / kind).is_dir() for kind in KINDS)

    def entries(self) -> Listing:
        found: Listing = {}
        for kind in KINDS:
            for folder, folders, files in os.walk(self._root / kind, onerror=_unreadable):
                for name in [*folders, *files]:
                    path = Path(folder, name)
                    with contextlib.suppress(FileNotFoundError):
                        found[str(path.relative_to(self._root))] = _entry(path)
        return found

    def pour(self, paths: Sequence[str], write: Write) -> None:
        try:
            sink = cast("IO[bytes]", _Sink(write))
            with tarfile.open(fileobj=sink, mode="w|", format=tarfile.PAX_FORMAT) as tar:
                for name in paths:
                    with contextlib.suppress(FileNotFoundError):
                        self._add(tar, name)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise ServiceError(f"{self.name}: {error.strerror or error}") from None

    def _add(self, tar: tarfile.TarFile, name: str) -> None:
        path = self._root / name
        info = tar.gettarinfo(path, arcname=name)
        if info is None:
            return
        info.mode |= 0o700 if info.isdir() else 0o600
        if info.islnk():  # two names of one file: the other may not come along
            info.type, info.size, info.linkname = tarfile.REGTYPE, path.stat().st_size, ""
        if info.isreg():
            with path.open("rb") as file:
                tar.addfile(info, file)
        else:
            tar.addfile(info)


def _aside() -> str:
    return " ".join(f"{kind}/{INCOMING}" for kind in KINDS)


def _find(roots: str) -> str:
    """A script that lists everything below some folders, but what is laid aside there."""
    prune = " -o ".join(f"-path {kind}/{INCOMING}" for kind in KINDS)
    found = rf"find {roots} -mindepth 1 \( {prune} \) -prune -o"
    return (
        rf"{{ {found} \( -type d -printf 'd\0%p\0\0' -o -type f -printf 'f\0%p\0%s\0' "
        r"-o -type l -printf 'l\0%p\0%l\0' -o -printf 'o\0%p\0\0' \); printf 'sums\0'; "
        rf"{found} -type f -print0 | xargs -0 -r sha256sum -z -b; }}"
    )


class _Sink:
    """What tarfile writes to."""

    def __init__(self, write: Write) -> None:
        self._write = write

    def write(self, data: bytes) -> int:
        self._write(data)
        return len(data)


def parsed(said: bytes) -> Listing:
    """The listing that a machine gave: of find, then of sha256sum."""
    words = [os.fsdecode(word) for word in said.split(b"\0")]
    if "sums" not in words[::3]:
        raise UnreachableError("the list of files ended in the middle")
    border = words[::3].index("sums") * 3
    sums = {line[66:]: line[:64] for line in words[border + 1 :] if line}
    found: Listing = {}
    for kind, path, more in zip(*(iter(words[:border]),) * 3, strict=True):
        if kind == "f":
            if path in sums:  # else it went meanwhile
                found[path] = Entry("file", sums[path], int(more))
        else:
            found[path] = Entry({"d": "folder", "l": "link"}.get(kind, "other"), more)  # type: ignore[arg-type]
    return found


def _entry(path: Path) -> Entry:
    if path.is_symlink():
        return Entry("link", str(path.readlink()))
    if path.is_dir():
        return Entry("folder")
    if not path.is_file():
        path.lstat()
        return Entry("other")
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return Entry("file", digest, file.tell())
    except PermissionError as error:
        raise ServiceError(f"{path}: {error.strerror}") from None


def _unreadable(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise ServiceError(f"{error.filename}: {error.strerror}")


@contextlib.contextmanager
def _names(paths: Sequence[str]) -> Iterator[IO[bytes]]:
    with tempfile.TemporaryFile() as file:
        for path in paths:
            file.write(os.fsencode(path) + b"\0")
        file.seek(0)
        yield file


def _output(running: Streaming) -> IO[bytes]:
    return cast("IO[bytes]", running.process.stdout)


def _good(done: Completed, name: str, *, allowed: Sequence[int] = (0,)) -> Completed:
    if done.returncode in allowed:
        return done
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    said = next((line for line in lines if "No space left" in line), lines[-1] if lines else "?")
    raise ServiceError(f"{name}: {said}", "df -h on that machine" if "No space" in said else "")
