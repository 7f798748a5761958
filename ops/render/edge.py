"""The edge of any stack: its compose files, its variables, the names it answers to."""

from __future__ import annotations

import ipaddress
from typing import Any

from ops.settings import Environment, Settings
from ops.settings.model import EdgeMode


def edge_compose(settings: Settings, before: str) -> dict[str, str]:
    """Its compose files; `before` names the one that says what has to be healthy first."""
    mode = settings.edge.mode
    if mode is EdgeMode.TUNNEL:
        return {}
    files = {"edge.yaml": "edge/compose.yaml", "edge-after.yaml": f"edge/{before}.yaml"}
    if mode in (EdgeMode.ACME, EdgeMode.EXTERNAL):
        files[f"{mode}.yaml"] = f"edge/{mode}.yaml"
    return files


def edge_trial(settings: Settings) -> dict[str, str]:
    """Its part of the trial of a new stack."""
    if settings.edge.mode is EdgeMode.TUNNEL:
        return {}
    return {"trial-edge.yaml": "edge/trial.yaml"}


def edge_variables(settings: Settings) -> dict[str, str]:
    """What its compose files ask for."""
    edge = settings.edge
    return {
        "EDGE_VERSION": edge.version,
        "EDGE_PORT": str(edge.port),
        "EDGE_API_PORT": str(edge.api_port),
        "EDGE_CERTIFICATE": edge.certificate,
        "EDGE_PRIVATE_KEY": edge.private_key,
    }


def edge_names(environment: Environment) -> list[str]:
    """What the certificate is for: the domain, and the machine's address in URL form."""
    address = environment.machine.address.lower()
    try:
        ip = ipaddress.ip_address(address)
        address = f"[{ip}]" if ip.version == 6 else str(ip)
    except ValueError:
        pass  # a host name
    settings = environment.settings
    if settings.edge.mode is not EdgeMode.INTERNAL:
        return [settings.edge.domain]  # nobody else certifies the address
    return list(dict.fromkeys(name for name in (settings.edge.domain, address) if name))


def edge_values(environment: Environment) -> dict[str, Any]:
    """What the edge of any stack is rendered with."""
    edge, names = environment.settings.edge, edge_names(environment)
    return {
        "mode": edge.mode.value,
        "names": names,
        "address": names[-1].strip("[]"),
        "port": edge.port,
        "email": edge.email,
        "max_body": edge.max_body,
    }
