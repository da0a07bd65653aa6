"""Each entry of each door, called once with a token: what came of it."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pyarrow as pa
from auth_entries import grpc_methods, message

from proxist.auth.outgoing import fixed
from proxist.errors import PermissionDenied, ProxistError, Unauthenticated, from_json
from proxist.rpc.flight_client import FlightPeer
from proxist.rpc.grpc_client import connect

TIMEOUT_S = 10.0
SERVED_BY = {"auth": "controlplane", "controlplane": "controlplane", "persister": "persister"}


@dataclass(frozen=True)
class Outcome:
    """ "unauthenticated", "denied", or "in": let through, whatever came then. `text`: all that the client saw."""

    kind: str
    text: str
    ok: bool = False


def outcome(call: Callable[[], Any]) -> Outcome:
    try:
        return Outcome("in", repr(call()), ok=True)
    except Unauthenticated as error:
        return Outcome("unauthenticated", json.dumps(error.to_json()))
    except PermissionDenied as error:
        return Outcome("denied", json.dumps(error.to_json()))
    except ProxistError as error:
        if error.message.find(" answered ArrowException: ") > 0:  # GetSchema: pyarrow sends the text alone
            kinds = {"This token may not": "denied", "oken px_": "unauthenticated", " token": "unauthenticated"}
            kind = next((kind for sign, kind in kinds.items() if sign in error.message), "in")
            return Outcome(kind, error.message.split("Unknown error: ")[-1])
        return Outcome("in", json.dumps(error.to_json(), default=str))


class Doors:
    """One token at every door of a cluster."""

    def __init__(self, endpoints: dict[str, Any], token: str | None, tenant: str, table: str, shard: int = 1) -> None:
        self._endpoints = endpoints
        # `fixed(None)` would be this process' own credential, which has none either.
        self._token = token
        self._tenant = tenant
        self._table = table
        self._shard = shard

    def flight(self, uri: str, actions: set[str]) -> Iterator[tuple[str, Outcome]]:
        """Every verb, kind of ticket and action at one node."""
        scan = {"scan": {"table": self._table}}
        schema = pa.schema([("ts", pa.timestamp("ns", tz="UTC")), ("symbol", pa.string()), ("price", pa.float64())])
        hot = {"hot": {"shard": self._shard, "op": {"scan": {}}}}
        path = [self._tenant, self._table] if self._tenant else [self._table]
        with FlightPeer(uri, fixed(self._token)) as peer:

            def options() -> Any:
                return peer._options(TIMEOUT_S)

            def raw(call: Callable[[], Any]) -> Callable[[], Any]:
                def run() -> Any:
                    try:
                        return call()
                    except pa.ArrowException as error:
                        raise peer._typed(error) from None

                return run

            def put() -> Any:
                stream = peer.do_put(path, schema, timeout_s=TIMEOUT_S)
                stream.done_writing()
                try:
                    return stream.read_ack()
                finally:
                    stream.close()

            def session(query: dict[str, Any]) -> Any:
                opened = peer.do_exchange({"session": True}, timeout_s=TIMEOUT_S)
                try:
                    opened.write({"id": 1, **query})
                    opened.done_writing()
                    answer = opened.read()
                    error = json.loads(answer.metadata or b"{}").get("error")
                    if error is not None:  # of one query; the session itself is open
                        raise from_json(error)
                    return answer
                except StopIteration:
                    return None
                finally:
                    opened.close()

            from pyarrow import flight

            descriptor = flight.FlightDescriptor.for_command(json.dumps(scan).encode())
            calls: dict[str, Callable[[], Any]] = {
                "ListFlights": lambda: [i.descriptor for i in peer.list_flights(timeout_s=TIMEOUT_S)],
                "GetFlightInfo": lambda: peer.get_flight_info(scan, timeout_s=TIMEOUT_S).schema,
                "GetSchema": raw(lambda: peer._client.get_schema(descriptor, options())),
                "DoGet": lambda: peer.do_get(scan, timeout_s=TIMEOUT_S).table.num_rows,
                "DoPut": put,
                "DoExchange": lambda: session(scan),
                "ListActions": raw(lambda: list(peer._client.list_actions(options()))),
                "DoGet:follow": lambda: next(
                    iter(peer.stream({"follow": {"shard": self._shard, "from": 10**9}}, timeout_s=TIMEOUT_S))
                ),
                "DoGet:log": lambda: (
                    peer.do_get({"log": {"shard": self._shard, "from": 0, "to": 0}}, timeout_s=TIMEOUT_S).table.num_rows
                ),
                "DoExchange:hot": lambda: session(hot),
            }
            for name, call in calls.items():
                yield f"flight/{name}", outcome(call)
            body = {"table": self._table, "name": self._table, "producer": "p", "id": "none"}
            if self._tenant:
                body["tenant"] = self._tenant
            for name in sorted(actions):
                found = outcome(lambda name=name: peer.do_action(name, body, timeout_s=TIMEOUT_S))  # type: ignore[misc]
                yield f"flight/DoAction:{name}", found

    def grpc(self) -> Iterator[tuple[str, Outcome]]:
        """Every method of every service, at the node that serves it; health and reflection at the control plane."""
        for name, method in grpc_methods():
            service = name.split("/")[0].split(".")
            role = SERVED_BY.get(service[1], service[1]) if service[0] == "proxist" else "controlplane"
            node = self._endpoints[role]
            address = (node[0] if isinstance(node, list) else node)["grpc"]
            channel = connect(address, timeout_s=TIMEOUT_S, credential=fixed(self._token))
            try:
                yield f"grpc/{name}", outcome(lambda: self._method(channel, name, method))
            finally:
                channel.close()

    def _method(self, channel: grpc.Channel, name: str, method: Any) -> Any:
        request = message(method.input_type)()
        fields = {field.name for field in method.input_type.fields}
        for field, value in (("table", self._table), ("tenant", self._tenant), ("action", "read")):
            if field in fields:
                setattr(request, field, value)
        if "spec" in fields:
            request.spec.name = self._table
        if name.endswith("QueryService/Query"):
            request.scan.table = self._table
        kind = (
            ("stream" if method.client_streaming else "unary")
            + "_"
            + ("stream" if method.server_streaming else "unary")
        )
        call = getattr(channel, kind)(
            f"/{name}",
            request_serializer=message(method.input_type).SerializeToString,
            response_deserializer=message(method.output_type).FromString,
        )
        if not method.server_streaming:
            return call(request, timeout=TIMEOUT_S)
        if method.client_streaming:
            request.list_services = ""
        stream = call(iter([request]) if method.client_streaming else request, timeout=TIMEOUT_S)
        try:
            return next(stream)
        finally:
            stream.cancel()

    def http(self, routes: list[str]) -> Iterator[tuple[str, Outcome]]:
        """Every route of every service."""
        for role in ("query", "ingest", "persister", "controlplane"):
            node = self._endpoints[role]
            base = (node[0] if isinstance(node, list) else node)["http"]
            for route in routes:
                yield f"http/{route}", self._get(f"{base}/{route}")

    def _get(self, url: str) -> Outcome:
        headers = {} if self._token is None else {"authorization": f"Bearer {self._token}"}
        try:
            with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S) as answer:
                return Outcome("in", answer.read().decode(), ok=True)
        except urllib.error.HTTPError as error:
            with error:
                text = error.read().decode()
            return Outcome({401: "unauthenticated", 403: "denied"}.get(error.code, "in"), text)

    def attach(self, path: str) -> Outcome:
        request = {"shard": self._shard} | ({} if self._token is None else {"token": self._token})
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
            client.settimeout(TIMEOUT_S)
            client.connect(path)
            client.send(json.dumps(request).encode())
            packet, descriptors, _, _ = socket.recv_fds(client, 1 << 16, 4)
        for descriptor in descriptors:
            socket.close(descriptor)
        answer = json.loads(packet)

        def told() -> Any:
            if "error" in answer:
                raise from_json(answer["error"])
            return answer

        found = outcome(told)
        assert (found.kind == "in") == bool(descriptors), "memory is handed to those who are let in, and only to them"
        return found
