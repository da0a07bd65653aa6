"""Every request in docs/operations/grpcurl.md works against a running cluster, over reflection as grpcurl does it."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import grpc
import pytest
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from proxist.auth.cluster import ClusterSecret
from proxist.testing.cluster import LocalCluster

PAGE = Path(__file__).resolve().parents[2] / "docs" / "operations" / "grpcurl.md"
PARTS = {7441: "controlplane-0", 7411: "ingest-0", 7421: "query-0", 7431: "persister-0"}
SERVICES = {
    "proxist.controlplane.v1.ControlPlaneService",
    "proxist.auth.v1.AuthService",
    "proxist.ingest.v1.IngestService",
    "proxist.query.v1.QueryService",
    "proxist.persister.v1.PersisterService",
    "grpc.health.v1.Health",
}


@dataclass(frozen=True)
class Request:
    """One grpcurl line; `verb` is "call", "list" or "describe"."""

    line: str
    part: str
    verb: str
    symbol: str
    data: str

    def words(self, address: str) -> list[str]:
        return [address if word.startswith("127.0.0.1:") else word for word in shlex.split(self.line)]

    def over_tls(self, address: str, environment: Mapping[str, str]) -> list[str]:
        """With what the page says to write instead of `-plaintext`."""
        words = self.words(address)
        at = words.index("-plaintext")
        return [
            *words[:at],
            *(Template(word).substitute(environment) for word in instead_of_plaintext()),
            *words[at + 1 :],
        ]


def instead_of_plaintext() -> list[str]:
    (line,) = re.findall(r"^```\n(grpcurl .*)\n```", PAGE.read_text(), re.M)
    return shlex.split(line)[1:-2]


def documented() -> list[Request]:
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    return [_parse(line) for block in blocks for line in block.splitlines() if line.strip()]


def _parse(line: str) -> Request:
    program, *words = shlex.split(line)
    assert program == "grpcurl", line
    words.remove("-plaintext")
    data = "{}"
    if words[0] == "-d":
        data, words = words[1], words[2:]
    address, *rest = words
    verb = rest.pop(0) if rest[0] in ("list", "describe") else "call"
    return Request(line, PARTS[int(address.rpartition(":")[2])], verb, rest[0] if rest else "", data)


class Reflected:
    """What grpcurl does, without its binary: descriptors from the server, JSON in, JSON out."""

    def __init__(self, address: str, credentials: grpc.ChannelCredentials | None = None) -> None:
        opened = grpc.insecure_channel(address) if credentials is None else grpc.secure_channel(address, credentials)
        self._channel = opened
        self._database = ProtoReflectionDescriptorDatabase(self._channel)
        self._pool = DescriptorPool(self._database)

    def run(self, request: Request) -> list[dict[str, Any]] | list[str]:
        if request.verb == "list" and not request.symbol:
            return sorted(self._database.get_services())
        if request.verb == "list":
            return [method.name for method in self._pool.FindServiceByName(request.symbol).methods]
        if request.verb == "describe":
            return [field.name for field in self._pool.FindMessageTypeByName(request.symbol).fields]
        return self._call(request)

    def _call(self, request: Request) -> list[dict[str, Any]]:
        service, name = request.symbol.split("/")
        method = self._pool.FindServiceByName(service).FindMethodByName(name)
        asked = json_format.Parse(request.data, message_factory.GetMessageClass(method.input_type)())
        answer = message_factory.GetMessageClass(method.output_type)
        calls = self._channel.unary_stream if method.server_streaming else self._channel.unary_unary
        call = calls(
            f"/{request.symbol}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        given = call(asked, timeout=30.0)
        return [json_format.MessageToDict(message) for message in (given if method.server_streaming else [given])]

    def close(self) -> None:
        self._channel.close()


@pytest.fixture
def doors(cluster: LocalCluster) -> Iterator[dict[str, Reflected]]:
    opened = {part: Reflected(cluster.status()[part]["grpc"]) for part in PARTS.values()}
    yield opened
    for door in opened.values():
        door.close()


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path_factory.mktemp("secured"), tls=True) as running:
        yield running


def environment_for(secured: LocalCluster, part: str) -> dict[str, str]:
    """The variables of whoever calls; the persister tells only who runs the cluster."""
    own = secured.client_environment()
    if part != "persister-0":
        return own
    return {**own, "PROXIST_TOKEN": ClusterSecret.read(secured.cluster_secret).sign("page")}


@pytest.fixture
def secured_doors(secured: LocalCluster) -> Iterator[dict[str, Reflected]]:
    """What the page's flags mean: files for the channel, and the token in each call's header."""
    opened = {}
    for part in PARTS.values():
        words = [Template(word).substitute(environment_for(secured, part)) for word in instead_of_plaintext()]
        words.remove("-expand-headers")  # the substitution above is what it asks for
        flags = dict(zip(words[::2], words[1::2], strict=True))
        files = [Path(flags[flag]).read_bytes() for flag in ("-cacert", "-key", "-cert")]
        token = grpc.access_token_call_credentials(flags["-H"].removeprefix("authorization: Bearer "))
        credentials = grpc.composite_channel_credentials(grpc.ssl_channel_credentials(*files), token)
        opened[part] = Reflected(secured.status()[part]["grpc"], credentials)
    yield opened
    for door in opened.values():
        door.close()


@pytest.mark.cluster
@pytest.mark.parametrize("which", ["doors", "secured_doors"])
def test_every_documented_request_works_in_the_order_of_the_page(which: str, request: pytest.FixtureRequest) -> None:
    every_request_works(request.getfixturevalue(which))


def every_request_works(doors: dict[str, Reflected]) -> None:
    answers = {}
    for request in documented():
        try:
            answers[request.symbol] = doors[request.part].run(request)
        except (grpc.RpcError, KeyError, json_format.ParseError) as error:
            pytest.fail(f"{request.line}\n{error}")
    assert answers["grpc.health.v1.Health/Check"] == [{"status": "SERVING"}]
    assert answers["proxist.auth.v1.AuthService/CanI"][0]["allowed"] is True  # type: ignore[index]
    first, *_, last = answers["proxist.query.v1.QueryService/Query"]
    assert first["rows"] == [{"n": 0.0}]  # type: ignore[index]
    assert last["receipt"]  # type: ignore[index]


@pytest.mark.cluster
def test_a_reflection_client_that_leaves_is_no_internal_error(cluster: LocalCluster) -> None:
    log = cluster.data_dir / "logs" / "query-0.log"
    before = log.read_text().count("internal error")
    for request in documented():
        if request.part == "query-0" and request.verb == "describe":
            door = Reflected(cluster.status()[request.part]["grpc"])
            assert "sql" in door.run(request)
            door.close()
    # A second client's answer comes after the first one's end was seen.
    again = Reflected(cluster.status()["query-0"]["grpc"])
    assert again.run(Request("", "query-0", "list", "", "{}"))
    again.close()
    assert log.read_text().count("internal error") == before


@pytest.mark.cluster
def test_over_tls_nobody_reflects_without_a_token(secured: LocalCluster) -> None:
    files = [Path(secured.endpoints["tls"][name]).read_bytes() for name in ("ca", "key", "cert")]
    for part in PARTS.values():
        door = Reflected(secured.status()[part]["grpc"], grpc.ssl_channel_credentials(*files))
        with pytest.raises(grpc.RpcError) as refused:
            door.run(Request("", part, "list", "", "{}"))
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        door.close()


@pytest.mark.cluster
@pytest.mark.parametrize("which", ["cluster", "secured"])
def test_the_binary_takes_every_documented_line_where_it_is(which: str, request: pytest.FixtureRequest) -> None:
    if shutil.which("grpcurl") is None:
        pytest.skip("grpcurl is not on the PATH; the requests were made by reflection")
    running: LocalCluster = request.getfixturevalue(which)
    for asked in documented():
        address = running.status()[asked.part]["grpc"]
        words = asked.over_tls(address, environment_for(running, asked.part)) if running.tls else asked.words(address)
        ended = subprocess.run(words, capture_output=True, text=True, timeout=60)
        assert ended.returncode == 0, f"{asked.line}\n{ended.stderr}"


def test_the_page_has_a_request_for_every_service() -> None:
    called = {request.symbol.partition("/")[0] for request in documented() if request.verb == "call"}
    assert called == SERVICES
