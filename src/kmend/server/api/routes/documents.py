"""Documents for scanners and auditors: OpenVEX of a host; CSAF, OSV and OVAL of a level."""

from __future__ import annotations

import json
from typing import Annotated
from urllib.parse import urlsplit

from litestar import Response, Router, get
from litestar.di import NamedDependency
from litestar.params import PathParameter

from kmend.intel.documents import Advisory, Publisher, csaf, file_name, osv, oval
from kmend.server.access.permissions import Caller, Permission
from kmend.server.api.guarding import needs
from kmend.server.api.routes.hosts import HostId, visible
from kmend.server.api.services import Services
from kmend.server.knowledge import advisory_of_level, openvex_of_host

BuildId = Annotated[str, PathParameter(max_length=64)]
LevelNumber = Annotated[int, PathParameter(ge=1, le=999_999)]


@get("/hosts/{host:str}/openvex", opt=needs(Permission.READ), sync_to_thread=True)
def openvex_document(
    services: NamedDependency[Services], caller: NamedDependency[Caller], host: HostId
) -> Response[bytes]:
    """OpenVEX of all that is known of a host's kernel, for Trivy and Grype; `version` rises when it says something else."""
    with services.store.read() as connection:
        visible(connection, caller, host)
    base = _base(services)
    place = f"{base}/api/v1/hosts/{host}/openvex"
    found = openvex_of_host(services.store, host, place=place, author=_author(services), now=services.clock())
    return _json(found, f"{host}.openvex.json")


@get("/levels/{build_id:str}/{level:int}/csaf", opt=needs(Permission.READ), sync_to_thread=True)
def csaf_document(services: NamedDependency[Services], build_id: BuildId, level: LevelNumber) -> Response[bytes]:
    """CSAF 2.0, a security advisory of a level."""
    found, here = _advisory(services, build_id, level), f"{_base(services)}/api/v1/levels/{build_id}/{level}"
    publisher = Publisher(_author(services), _base(services))
    made = csaf(found, publisher, f"{here}/csaf", [("Manifest of the livepatch", f"{here}/manifest")])
    return _json(made, file_name(found))


@get("/levels/{build_id:str}/{level:int}/osv", opt=needs(Permission.READ), sync_to_thread=True)
def osv_document(services: NamedDependency[Services], build_id: BuildId, level: LevelNumber) -> Response[bytes]:
    """OSV 1.7 of a level, in the manner of a distribution's livepatch notices."""
    made = osv(_advisory(services, build_id, level))
    return _json(made, f"{made['id']}.json")


@get("/levels/{build_id:str}/{level:int}/oval", opt=needs(Permission.READ), sync_to_thread=True)
def oval_document(services: NamedDependency[Services], build_id: BuildId, level: LevelNumber) -> Response[bytes]:
    """OVAL 5.11 of a level, for `oscap oval eval` on a host."""
    found = _advisory(services, build_id, level)
    return _file(oval(found), f"{found.name}.oval.xml", "application/xml")


def _advisory(services: Services, build_id: str, level: int) -> Advisory:
    with services.store.read() as connection:
        return advisory_of_level(connection, build_id, level)


def _base(services: Services) -> str:
    """A URI that is this server's alone."""
    return services.config.server.public_url.rstrip("/") or f"urn:kmend:server:{services.server_id}"


def _author(services: Services) -> str:
    host = urlsplit(services.config.server.public_url).hostname
    return f"kmend-server {host or services.server_id}"


def _json(document: object, name: str) -> Response[bytes]:
    # In CSAF members should stand in alphabetical order (6.2.13), and it does the others no harm.
    content = json.dumps(document, sort_keys=True, indent=2, ensure_ascii=False).encode() + b"\n"
    return _file(content, name, "application/json")


def _file(content: bytes, name: str, kind: str) -> Response[bytes]:
    return Response(content, media_type=kind, headers={"content-disposition": f'attachment; filename="{name}"'})


router = Router("/", tags=["documents"], route_handlers=[openvex_document, csaf_document, osv_document, oval_document])
