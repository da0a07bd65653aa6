"""Every entry of every door, from the definitions of the services themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from google.protobuf import descriptor_pool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from proxist.pb import auth_pb2, controlplane_pb2, ingest_pb2, persister_pb2, query_pb2
from proxist.rpc.actions import DESCRIPTIONS
from proxist.rpc.flight_server import FlightHandler
from proxist.rpc.http import HttpDoor

FILES = (auth_pb2, controlplane_pb2, ingest_pb2, persister_pb2, query_pb2, health_pb2, reflection_pb2)
_POOL = descriptor_pool.Default()


def flight_verbs() -> list[str]:
    """DoGet, ListFlights …: the methods that a handler answers."""
    names = [name for name, value in vars(FlightHandler).items() if callable(value) and not name.startswith("_")]
    return sorted("".join(part.capitalize() for part in name.split("_")) for name in names)


def grpc_methods() -> Iterator[tuple[str, Any]]:
    """(service/method, its descriptor)."""
    for file in FILES:
        for service in file.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                yield f"{service.full_name}/{method.name}", method


def message(descriptor: Any) -> Any:
    """A message class of a descriptor."""
    return GetMessageClass(descriptor)


def http_routes() -> list[str]:
    door = HttpDoor("127.0.0.1", 0, dict)
    try:
        return sorted(route.path.strip("/") for route in door._server.config.app.routes)  # type: ignore[union-attr]
    finally:
        door.stop(0.1)


def ticket_kinds() -> set[str]:
    """The internal kinds of tickets that the doors know: what they pass to `Caller.at`."""
    from pathlib import Path

    import proxist_ingest.doors
    import proxist_ingest.reads
    import proxist_query.doors

    modules = (proxist_ingest.doors, proxist_ingest.reads, proxist_query.doors)
    sources = [Path(str(module.__file__)).read_text() for module in modules]
    return {kind for source in sources for kind in re.findall(r'\.at\("flight/(\w+:\w+)"\)', source)}


def all_entries(actions: set[str]) -> set[str]:
    """`actions`: what the nodes list."""
    entries = {f"flight/{verb}" for verb in flight_verbs() if verb != "DoAction"}
    entries |= {f"flight/{kind}" for kind in ticket_kinds()}
    entries |= {f"flight/DoAction:{name}" for name in actions | DESCRIPTIONS.keys()}
    entries |= {f"grpc/{name}" for name, _ in grpc_methods()}
    entries |= {f"http/{name}" for name in http_routes()}
    return entries | {"attach"}
