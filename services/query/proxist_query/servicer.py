"""The gRPC QueryService: queries for grpcurl and scripts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct

import proxist
from proxist.auth.identity import caller_of
from proxist.errors import Unavailable
from proxist.etcd.catalog import Catalog
from proxist.model.query import Query, parse_query
from proxist.pb import query_pb2 as pb
from proxist.pb import query_pb2_grpc as pb_grpc
from proxist_query.jsonrows import rows_as_structs
from proxist_query.runner import Runner

SERVICE_NAME = "proxist.query.v1.QueryService"
ROWS_PER_MESSAGE = 500


class QueryServicer(pb_grpc.QueryServiceServicer):
    """Implements protos/proxist/query/v1/query.proto; its comments are the contract."""

    def __init__(
        self, runner: Runner, catalog: Catalog, name: str, state: Callable[[], str], check_serving: Callable[[], None]
    ) -> None:
        self._runner = runner
        self._catalog = catalog
        self._name = name
        self._state = state
        self._check_serving = check_serving

    def Query(self, request: pb.Query, context: Any) -> Iterator[pb.Answer]:
        self._check_serving()

        def alive() -> None:
            if not context.is_active():
                raise Unavailable("The client cancelled the call.")

        answer = self._runner.run(query_of(request), None, alive, caller_of(context))
        rows = rows_as_structs(answer.rows)
        while part := list(islice(rows, ROWS_PER_MESSAGE)):
            alive()
            yield pb.Answer(rows=part)
        receipt = Struct()
        receipt.update(answer.receipt.to_json())
        yield pb.Answer(receipt=receipt)

    def Status(self, request: pb.StatusRequest, context: Any) -> pb.StatusResponse:
        owners = [pb.Owner(node=name, via=via) for name, via in sorted(self._owners().items())]
        return pb.StatusResponse(
            name=self._name,
            state=self._state(),
            pid=os.getpid(),
            version=getattr(proxist, "__version__", ""),
            owners=owners,
        )

    def _owners(self) -> dict[str, str]:
        """Each ingest node, and the way on which `auto` reaches it."""
        ways = {node.name: self._runner.hot.way_to(node) for node in self._catalog.nodes("ingest")}
        for shard in self._catalog.shards():
            if shard.node not in ways:
                ways[shard.node] = "unreachable"
        return ways


def query_of(message: pb.Query) -> Query:
    """The message as the JSON query of docs/api.md. Raises InvalidArgument as `parse_query` does."""
    wire = MessageToDict(message, preserving_proto_field_name=True)
    for verb in ("scan", "asof"):
        scan = wire.get(verb, {}).get("left") if verb == "asof" else wire.get(verb)
        if isinstance(scan, dict) and "limit" in scan:
            scan["limit"] = int(scan["limit"])  # proto3 JSON writes 64-bit integers as text
    return parse_query(wire)
