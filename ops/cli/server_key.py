"""`developer rotate --server-key`: the server's own API key, while everybody goes on working."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ops import escrow
from ops.cli.common import out, sure
from ops.cli.people import ca_of, host_keys, with_steps
from ops.clients.ssh import Remote
from ops.developers import rotation
from ops.developers.kit import Kit, check_folder, make_kit, write_kit
from ops.developers.reality import look
from ops.developers.rotation import Phase
from ops.developers.tokens import mint
from ops.settings import Environment, load_environment


@dataclass(frozen=True)
class _Kits:
    """Everybody's kit with the token that the new key signs, and the folder above them."""

    folder: Path
    kits: list[Kit]

    def check(self) -> None:
        for each in self.kits:
            check_folder(each, self.folder / each.name)

    def write(self) -> None:
        for each in self.kits:
            write_kit(each, self.folder / each.name)


def rotate(
    environment: Environment, *, finish: bool, to: Path | None, dry_run: bool, yes: bool
) -> None:
    """Carry out the phase that is next, after showing it and asking."""
    phase = rotation.finish(environment) if finish else rotation.begin(environment)
    remote = Remote(environment)
    if phase.again and rotation.is_finished(phase, look(environment, remote)):
        out.print(f"nothing to finish: {phase.path.name} and the host have one key, the same")
        # its configuration may have been written, and Qdrant not yet started anew with it
        out.print(f"where an earlier one broke off: stackroom -e {environment.name} deploy")
        return
    kits = _Kits(to or Path(f"stackroom-{environment.name}-kits"), [])
    if not finish:
        kits = _Kits(kits.folder, _kits(phase))
        kits.check()
    _tell(phase, kits)
    if dry_run:
        rotation.refuse(phase, look(environment, remote), remote)
        out.print("dry run: nothing was changed")
        return
    sure("Drop the old key?" if finish else "Give Qdrant a second key?", yes=yes)
    doing = f"stackroom -e {environment.name} developer rotate --server-key"
    doing += " --finish" if finish else ""
    with_steps(lambda on_step: rotation.carry(phase, doing, on_step=on_step))
    _recovery(load_environment(environment.folder))
    if finish:
        out.print("finished: the new key alone opens Qdrant; every token of the old one is dead")
        return
    kits.write()
    if kits.kits:
        out.print(f"rotated: hand over the {len(kits.kits)} kits in {kits.folder}", markup=False)
    out.print(f"both keys work until: {doing} --finish", markup=False)


def _kits(phase: Phase) -> list[Kit]:
    environment = phase.after
    ca, keys = ca_of(environment), host_keys(environment)
    return [
        make_kit(
            environment, name, ca_pem=ca, host_keys=keys, secret=mint(environment.settings, name)
        )
        for name in phase.holders()
    ]


def _tell(phase: Phase, kits: _Kits) -> None:
    holders = ", ".join(phase.holders()) or "nobody"
    if phase.again:
        out.print(f"{phase.path.name} holds this phase already: the deploy is carried out again")
    if phase.finish:
        out.print(f"{phase.path.name}: the new key becomes the only one")
        out.print(f"tokens of the old key die, at once; who must have a new kit: {holders}")
    else:
        out.print(f"{phase.path.name}: a second key, beside the one that works")
        out.print(f"new kits for {holders}, in {kits.folder}; the tokens of now work on")
    out.print("Qdrant is started anew; the edge holds requests meanwhile, for a minute at most")


def _recovery(environment: Environment) -> None:
    """The recovery file holds the keys: one that is there is made anew."""
    state = escrow.inspect(environment)
    if state.made is None:
        out.print(f"there is no recovery file: stackroom -e {environment.name} escrow create")
        return
    if not state.is_current:
        made = escrow.create(environment)
        out.print(f"wrote {made.path} anew: replace the copies of it elsewhere", markup=False)
