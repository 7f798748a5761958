"""The stack on the host: volumes, images, the compose project, the declared collections.

What runs is compared with what should run (files, image, configuration label, health); only a
difference starts anything, so an interrupted deploy is finished by the next.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from pyinfra import host
from pyinfra.api import FactBase, FileUploadCommand, OperationError, deploy, operation

from ops.host import token
from ops.host.facts import Lines
from ops.host.operations import Commands, differing, packages, place, show_diff, unit, upload
from ops.render.files import RenderedFile
from ops.render.host import APPLY, STACK_UNIT, START_SECONDS, stack_unit
from ops.render.project import PROJECT, STACK_DIR, FolderBuild, GitBuild, Service, Stack
from ops.render.stack import DATA_VOLUMES

BUILD_DIR = "/var/lib/stackroom/build"
ARCHIVE = "/var/lib/stackroom/images.tar"
# what a deploy that was killed leaves: services that were to start anew, half a stack, a trial
INTERRUPTED = (
    "ls -d /etc/stackroom/recreate /etc/stackroom/stack.next 2>/dev/null; docker ps --all --quiet"
    " --filter label=com.docker.compose.project=stackroom-trial 2>/dev/null || true"
)


@dataclass(frozen=True)
class Container:
    """A container of the project: what it was made from and how it is."""

    image: str
    image_id: str
    config_sha256: str
    state: str


class Containers(FactBase[dict[str, Container]]):
    """The project's containers by service; `state` is the health where there is a check, and
    "done" of one that has ended well."""

    default = dict

    def requires_command(self) -> str:
        return "docker"

    def command(self) -> str:
        form = (
            '{{index .Config.Labels "com.docker.compose.service"}}|{{.Config.Image}}|{{.Image}}|'
            '{{index .Config.Labels "stackroom.config"}}|'
            "{{if .State.Paused}}paused{{else if .State.Health}}{{.State.Health.Status}}"
            "{{else}}{{.State.Status}}{{end}}|"
            "{{.State.Running}}|{{.State.Status}} {{.State.ExitCode}}"
        )
        ids = f"docker ps -aq --filter label=com.docker.compose.project={PROJECT}"
        return f"for c in $({ids}); do docker inspect -f {shlex.quote(form)} $c; done"

    def process(self, output: list[str]) -> dict[str, Container]:
        containers = {}
        for line in output:
            service, image, image_id, config, state, running, end = line.split("|")
            ended = "done" if end == "exited 0" else "stopped"
            containers[service] = Container(
                image, image_id, config, state if running == "true" else ended
            )
        return containers


@deploy("Stack")
def stack(wanted: Stack, pinned: list[str], archive: Path | None = None) -> None:
    """Bring the compose project to the wanted state; keep the old one where the new fails."""
    volumes(name="volumes", wanted=wanted)
    if isinstance(wanted.build, GitBuild):
        packages(name="git", names=["git"])
        build(name="build the api", source=wanted.build)
    own = [wanted.build.image] if isinstance(wanted.build, FolderBuild) else []
    images(name="images", wanted=pinned, own=own, archive=str(archive) if archive else "")
    if isinstance(wanted.build, FolderBuild):
        build_here(name="build our image", source=wanted.build)
    converge(name="services", wanted=wanted)
    if wanted.ordered:
        place(name="start order", files=[stack_unit()])
        unit(name="start order of a restart", unit_name=STACK_UNIT)


@operation()
def volumes(wanted: Stack) -> Commands:
    """Named volumes that no `docker compose down -v` can delete, owned by their service's user.

    Raises OperationError where a stack was deployed and its data are gone, as an empty volume in
    their place would look healthy; and where the machine has the data of another stack.
    """
    others = [volume for volume in DATA_VOLUMES.values() if volume != wanted.data_volume]
    names = " ".join(shlex.quote(name) for name in [v.name for v in wanted.volumes] + others)
    found = host.get_fact(
        Lines,
        script="docker version >/dev/null 2>&1 && echo docker;"
        f" for v in {names}; do m=$(docker volume inspect -f '{{{{.Mountpoint}}}}' $v"
        ' 2>/dev/null) && echo "$v $(stat -c %u "$m")"; done; true',
    )
    there = {line.split(" ")[0] for line in found}
    for other in others:
        if other in there:
            raise OperationError(
                f"this machine has the data of another stack (volume {other}); one machine carries"
                " one stack: deploy this one to another machine"
            )
    missing = [volume for volume in wanted.volumes if f"{volume.name} {volume.uid}" not in found]
    deployed = host.get_fact(Lines, script=f"[ -d {STACK_DIR} ] && echo yes || true")
    # a Docker that is stopped, and is started before this step, says nothing of its volumes
    answers = "docker" in found
    if deployed and answers and wanted.data_volume not in there:
        raise OperationError(
            f"this machine had a stack, but its volume {wanted.data_volume} is gone: is the disk of"
            " /var/lib/docker mounted? To begin anew with an empty one, remove"
            f" {STACK_DIR} on the machine first"
        )
    if not missing:
        host.noop("the volumes exist")
        return
    for volume in missing:
        name = shlex.quote(volume.name)
        yield (
            f"docker volume create {name} >/dev/null && chown {volume.uid}:{volume.uid}"
            f" \"$(docker volume inspect -f '{{{{.Mountpoint}}}}' {name})\""
        )


@operation()
def build(source: GitBuild) -> Commands:
    """The api's image from a git repository and ref, built once for each ref."""
    image = shlex.quote(source.image)
    if _image_ids([source.image]):
        host.noop(f"{source.image} is built")
        return
    folder = f"{BUILD_DIR}/api"
    yield (
        f"rm -rf {folder} && mkdir -p {folder} && cd {folder} && git init -q"
        f" && git fetch -q --depth 1 -- {shlex.quote(source.repository)} {shlex.quote(source.ref)}"
        f" && git checkout -q FETCH_HEAD && docker build -q -t {image} . && rm -rf {folder}"
    )


@operation()
def build_here(source: FolderBuild) -> Commands:
    """An image of ours from its build folder, built once for each content of that folder."""
    image = shlex.quote(source.image)
    if _image_ids([source.image]):
        host.noop(f"{source.image} is built")
        return
    folder = f"{BUILD_DIR}/{source.image.partition(':')[0]}"
    yield f"rm -rf {folder}"
    for name, content in source.files:
        yield upload(RenderedFile(f"{folder}/{name}", content))
    # an archive that was loaded in this run may have brought it
    yield (
        f"docker image inspect {image} >/dev/null 2>&1 || docker build -q -t {image} {folder};"
        f" s=$?; rm -rf {folder}; exit $s"
    )


@operation()
def images(wanted: list[str], own: list[str], archive: str) -> Commands:
    """Every pinned image, pulled, or loaded from an archive where there is no registry.

    `own` are loaded where the archive has them; no registry has them.
    """
    sought = [*wanted, *(own if archive else [])]
    names = " ".join(shlex.quote(image) for image in sought)
    present = host.get_fact(
        Lines,
        script=f"for i in {names}; do docker image inspect -f ok $i >/dev/null 2>&1"
        ' && echo "$i"; done; true',
    )
    missing = [image for image in sought if image not in present]
    if not missing:
        host.noop("the images are on the host")
        return
    if archive:
        yield FileUploadCommand(archive, ARCHIVE)
        yield f"docker load -q -i {ARCHIVE}; s=$?; rm -f {ARCHIVE}; exit $s"
    for image in [each for each in missing if each in wanted]:
        quoted = shlex.quote(image)
        told = shlex.quote(f"{image} is not on the machine and cannot be pulled")
        yield (
            f"docker image inspect -f ok {quoted} >/dev/null 2>&1 || docker pull -q {quoted}"
            f" || {{ echo {told} >&2; exit 1; }}"
        )


@operation()
def converge(wanted: Stack) -> Commands:
    """Swap in the rendered files and start what does not run as wanted."""
    changed = differing(wanted.files)
    containers = host.get_fact(Containers)
    ids = _image_ids([service.image for service in wanted.services])
    off = [s.name for s in wanted.services if not _runs(s, containers.get(s.name), ids)]
    surplus = set(containers) - {service.name for service in wanted.services}
    interrupted = host.get_fact(Lines, script=INTERRUPTED)
    queues = any(service.name == token.RENEWED[0] for service in wanted.services)
    renewed = set(token.RENEWED) if queues and token.ends_soon() else set()
    if not (changed or off or surplus or interrupted or renewed):
        host.noop("every service runs as wanted")
        return
    show_diff(changed)
    if changed:
        following = f"{STACK_DIR}.next"
        # a killed deploy's apply may still be at work on these folders
        yield (
            "mkdir -p -m 700 /etc/stackroom && flock -w 600 /etc/stackroom/apply.lock"
            f" rm -rf {following} && mkdir -m 700 {following}"
        )
        for file in wanted.files:
            yield upload(file, following + file.path.removeprefix(STACK_DIR))
    else:
        yield f"rm -rf {STACK_DIR}.next"
    # a mounted file that was edited may have been read: its service starts anew
    edited = {s.name for s in wanted.services for f in changed if f.path in s.files}
    # Compose neither starts nor waits for what hangs
    hung = {name for name, each in containers.items() if each.state in ("unhealthy", "paused")}
    yield " ".join([APPLY, str(START_SECONDS), *sorted(edited | renewed | (hung - surplus))])


def _image_ids(images: list[str]) -> dict[str, str]:
    names = " ".join(shlex.quote(image) for image in images)
    lines = host.get_fact(
        Lines,
        script=f"for i in {names}; do id=$(docker image inspect -f '{{{{.Id}}}}' $i 2>/dev/null)"
        ' && echo "$i $id"; done; true',
    )
    return dict(line.split(" ", 1) for line in lines)


def _runs(service: Service, container: Container | None, image_ids: dict[str, str]) -> bool:
    return container is not None and container == Container(
        image=service.image,
        image_id=image_ids.get(service.image, ""),
        config_sha256=service.config_sha256,
        state="done" if service.once else "healthy",
    )
