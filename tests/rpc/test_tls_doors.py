"""TLS at every kind of door over real sockets: who is let in, what a failed handshake says, renewed files."""

from __future__ import annotations

import dataclasses
import datetime
import shutil
import socket
import ssl
from pathlib import Path

import grpc
import pytest
import tls_doors
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tls_doors import FLIGHT, GRPC, HTTP, KINDS, Kind, checks, flight_calls, get, http_door, is_refused

import proxist
from proxist.cli.certs import _CLIENT, _SERVER_AND_CLIENT, _Authority, _name, _write
from proxist.client.wire import check_uri
from proxist.errors import Unavailable
from proxist.rpc.flight_client import FlightPeer
from proxist.rpc.flight_server import FlightDoor
from proxist.rpc.ports import free_ports
from proxist.rpc.tls import PLAIN, Tls
from proxist.testing.tls import DevCerts


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> DevCerts:
    return DevCerts(tmp_path_factory.mktemp("certs"))


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> DevCerts:
    """Of an authority that the doors do not know."""
    return DevCerts(tmp_path_factory.mktemp("strangers"))


@pytest.fixture
def own_certs(tmp_path: Path) -> DevCerts:
    """Some that the test may replace."""
    return DevCerts(tmp_path / "certs")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture(params=["flight", "grpc"])
def typed(request: pytest.FixtureRequest) -> Kind:
    """The doors whose clients raise our errors."""
    return KINDS[request.param]


def without_demand(tls: Tls) -> Tls:
    return dataclasses.replace(tls, clients="token")


def stranger(certs: DevCerts, strangers: DevCerts) -> Tls:
    """Trusts the door and shows a certificate that the door does not trust."""
    return dataclasses.replace(strangers.client, ca=certs.ca)


def a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the environment, and nobody listens there."""
    nowhere = f"http://127.0.0.1:{free_ports(1)[0]}"
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, nowhere)
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)


# ---- who is let in ---------------------------------------------------------------------------------------------------


def test_who_trusts_the_authority_is_let_in(kind: Kind, certs: DevCerts) -> None:
    with kind.serve(without_demand(certs.server)) as port:
        kind.call(port, certs.nameless)
        kind.call(port, certs.client)
        kind.call(port, certs.server)  # a service's pair is also what it shows to other services


def test_where_certificates_are_demanded_one_of_the_authority_is_let_in(kind: Kind, certs: DevCerts) -> None:
    with kind.serve(certs.server) as port:
        kind.call(port, certs.client)
        kind.call(port, certs.server)


@pytest.mark.parametrize("clients", ["token", "certificate"])
def test_who_does_not_trust_the_authority_does_not_talk_to_the_door(
    kind: Kind, certs: DevCerts, strangers: DevCerts, clients: str
) -> None:
    with kind.serve(dataclasses.replace(certs.server, clients=clients)) as port:
        assert is_refused(kind, port, strangers.client)
        assert is_refused(kind, port, Tls())  # trusts what the machine trusts
        assert is_refused(kind, port, PLAIN)


def test_a_certificate_of_another_authority_is_refused(kind: Kind, certs: DevCerts, strangers: DevCerts) -> None:
    with kind.serve(certs.server) as port:
        assert is_refused(kind, port, stranger(certs, strangers))


def test_a_tls_client_does_not_talk_to_a_plain_door(kind: Kind, certs: DevCerts) -> None:
    with kind.serve(PLAIN) as port:
        kind.call(port, PLAIN)
        assert is_refused(kind, port, certs.client)


@pytest.mark.parametrize("scheme", ["grpc", "grpc+tcp"])
def test_whoever_has_tls_sends_no_token_in_clear(scheme: str, certs: DevCerts) -> None:
    with FLIGHT.serve(PLAIN) as port:
        uri = f"{scheme}://127.0.0.1:{port}"
        for tls in (certs.nameless, certs.client, Tls(certs.client.cert, certs.client.key)):
            with FlightPeer(uri, lambda: "px_canary_1", tls) as peer:
                with pytest.raises(Unavailable, match="a token would go to it in clear") as caught:
                    peer.do_action("anything", timeout_s=tls_doors.T)
                assert "canary" not in caught.value.message
        with FlightPeer(uri, tls=certs.client) as peer:
            assert peer.do_action("anything", timeout_s=tls_doors.T) == [{}]  # no token: nothing is lost
        with FlightPeer(uri, lambda: "px_canary_1", PLAIN) as peer:
            assert peer.do_action("anything", timeout_s=tls_doors.T) == [{}]
        with pytest.raises(Unavailable, match="a token would go to it in clear"):
            proxist.connect(uri, token="px_canary_1", tls_ca=certs.ca)


def test_a_certificate_without_an_authority_asks_for_tls_too(certs: DevCerts) -> None:
    shown = Tls(certs.client.cert, certs.client.key)
    with GRPC.serve(PLAIN) as port:
        assert is_refused(GRPC, port, shown)
    assert check_uri("node-1:8815", shown) == "grpc+tls://node-1:8815"


def test_no_call_goes_to_a_proxy_of_the_environment(
    typed: Kind, certs: DevCerts, monkeypatch: pytest.MonkeyPatch
) -> None:
    with typed.serve(certs.server) as port, typed.serve(PLAIN) as plain:
        a_proxy(monkeypatch)
        typed.call(port, certs.client)
        typed.call(plain, PLAIN)


def test_probes_are_answered_without_a_certificate_and_nothing_else_is(certs: DevCerts, strangers: DevCerts) -> None:
    with http_door(certs.server) as port:
        paths = ("/livez", "/readyz", "/health", "/metrics", "/nowhere")
        assert [get(port, certs.nameless, path) for path in paths] == [200, 200, 401, 401, 401]
        assert [get(port, certs.client, path) for path in paths] == [200, 200, 200, 200, 404]
        assert is_refused(HTTP, port, stranger(certs, strangers))


def test_the_unix_socket_of_a_tls_door_needs_no_certificate(certs: DevCerts, tmp_path: Path) -> None:
    handler = tls_doors.Handler()
    door = FlightDoor(handler, "127.0.0.1", 0, tmp_path / "x.flight", tls=certs.server)
    assert door.uri.startswith("grpc+tls://")
    with FlightPeer(str(door.unix_uri)) as peer:
        assert peer.do_action("anything", timeout_s=tls_doors.T) == [{}]
    assert door.stop(tls_doors.T) == []


# ---- what a failed handshake says ------------------------------------------------------------------------------------

SAYS = {
    "wrong authority": "not of an authority that this side trusts.*`tls_ca`",
    "no certificate": "demands a client certificate.*give `tls_cert` and `tls_key`",
    "a stranger's": "demands a client certificate.*give `tls_cert` and `tls_key`",
    "plain": "it speaks TLS and this caller does not.*call it with TLS",
    "plain door": "That door speaks no TLS",
}


@pytest.mark.parametrize("case", SAYS)
def test_a_failed_handshake_says_what_to_change(typed: Kind, case: str, certs: DevCerts, strangers: DevCerts) -> None:
    shown = {
        "wrong authority": strangers.client,
        "no certificate": certs.nameless,
        "a stranger's": stranger(certs, strangers),
        "plain": PLAIN,
        "plain door": certs.client,
    }[case]
    serving = PLAIN if case == "plain door" else certs.server
    with (
        typed.serve(serving) as port,
        pytest.raises(Unavailable, match=f"The handshake with .*127.0.0.1:{port} failed.*{SAYS[case]}") as raised,
    ):
        typed.call(port, shown)
    assert raised.value.details == {"reason": "handshake"}


def test_a_client_certificate_on_a_server_says_so(typed: Kind, certs: DevCerts) -> None:
    with (
        typed.serve(without_demand(certs.client)) as port,
        pytest.raises(Unavailable, match="certificate is not made for servers"),
    ):
        typed.call(port, certs.nameless)


def test_a_certificate_for_another_name_says_so(typed: Kind, certs: DevCerts) -> None:
    with (
        typed.serve(certs.server, 0, "127.0.0.2") as port,
        pytest.raises(Unavailable, match="certificate is for other names"),
    ):
        typed.call(port, certs.client, "127.0.0.2")


def test_a_node_that_is_down_is_no_failed_handshake(typed: Kind, certs: DevCerts) -> None:
    with pytest.raises(Unavailable, match="does not answer") as raised:
        typed.call(free_ports(1)[0], certs.client)
    assert raised.value.details == {}


def test_a_certificate_that_has_ended_is_among_what_a_door_may_mean(typed: Kind, tmp_path: Path) -> None:
    now = datetime.datetime.now(datetime.UTC)
    authority = _Authority(now + datetime.timedelta(days=1))
    _write(tmp_path, "ca", authority.key, authority.certificate)
    _write(tmp_path, "tls", *authority.issue("door", _SERVER_AND_CLIENT, [_name("127.0.0.1")]))
    authority._ends = now - datetime.timedelta(minutes=1)
    _write(tmp_path, "client", *authority.issue("caller", _CLIENT))
    files = [tmp_path / name for name in ("tls.crt", "tls.key", "ca.crt", "client.crt", "client.key")]
    with (
        typed.serve(Tls(*files[:3], "certificate")) as port,
        pytest.raises(Unavailable, match="or one that has ended") as raised,
    ):
        typed.call(port, Tls(*files[3:], files[2]))
    assert raised.value.details["reason"] == "handshake"


def test_an_http_session_is_not_taken_up_again_for_it_outlives_the_authority(certs: DevCerts) -> None:
    context = certs.client.http_client()
    with http_door(certs.server) as port:

        def visit(session: ssl.SSLSession | None) -> tuple[ssl.SSLSession | None, bool | None]:
            with (
                socket.create_connection(("127.0.0.1", port), tls_doors.T) as raw,
                context.wrap_socket(raw, server_hostname="127.0.0.1", session=session) as sock,
            ):
                sock.sendall(b"GET /health HTTP/1.0\r\n\r\n")
                assert sock.recv(12).startswith(b"HTTP/1.")
                return sock.session, sock.session_reused

        session, _ = visit(None)
        assert visit(session)[1] is False
        context.maximum_version = ssl.TLSVersion.TLSv1_2  # whose sessions have an id
        with pytest.raises(ssl.SSLError, match="SSL"):
            visit(None)


# ---- renewed files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("door", ["grpc", "http"])
def test_renewed_files_count_from_the_next_handshake(door: str, own_certs: DevCerts, tmp_path: Path) -> None:
    kind = KINDS[door]
    before = old_client(own_certs, tmp_path)
    with kind.serve(own_certs.server) as port:
        kind.call(port, before)
        own_certs.make()
        kind.call(port, own_certs.client)
        assert is_refused(kind, port, before)


def test_a_flight_door_takes_renewed_files_when_it_is_started_again(own_certs: DevCerts, tmp_path: Path) -> None:
    before = old_client(own_certs, tmp_path)
    with FLIGHT.serve(own_certs.server) as port:
        own_certs.make()
        FLIGHT.call(port, before)
        assert is_refused(FLIGHT, port, own_certs.client)
    with FLIGHT.serve(own_certs.server, port):
        FLIGHT.call(port, own_certs.client)
        assert is_refused(FLIGHT, port, before)


@pytest.mark.parametrize("door", ["grpc", "http"])
def test_files_that_are_half_replaced_leave_the_last_good_ones_in_use(
    door: str, own_certs: DevCerts, strangers: DevCerts, tmp_path: Path
) -> None:
    kind = KINDS[door]
    before = old_client(own_certs, tmp_path)
    with kind.serve(own_certs.server) as port:
        shutil.copy(strangers.directory / "tls.key", own_certs.directory)
        kind.call(port, before)
        (own_certs.directory / "tls.crt").unlink()
        kind.call(port, before)
        shutil.copy(strangers.directory / "tls.crt", own_certs.directory)
        assert is_refused(kind, port, before)
        kind.call(port, dataclasses.replace(before, ca=strangers.ca))


def test_an_authority_is_replaced_with_both_in_the_bundle(
    kind: Kind, certs: DevCerts, strangers: DevCerts, tmp_path: Path
) -> None:
    both = tmp_path / "both.crt"
    both.write_bytes(certs.ca.read_bytes() + strangers.ca.read_bytes())
    for server in (certs.server, strangers.server):
        with kind.serve(dataclasses.replace(server, ca=both)) as port:
            for client in (certs.client, strangers.client):
                kind.call(port, dataclasses.replace(client, ca=both))


@pytest.mark.parametrize("door", ["flight", "grpc"])
def test_a_client_shows_and_trusts_renewed_files_from_its_next_call_on(
    door: str, own_certs: DevCerts, strangers: DevCerts
) -> None:
    """The door has been of the new authority for a while; the client's files follow."""
    client = {"flight": flight_calls, "grpc": checks}[door]
    with KINDS[door].serve(strangers.server) as port, client(port, own_certs.client) as call:
        with pytest.raises(Unavailable, match="handshake"):
            call()
        for name in ("client.key", "ca.crt", "client.crt"):
            shutil.copy(strangers.directory / name, own_certs.directory)
        call()


def test_an_open_connection_outlives_the_certificate_that_it_began_with(own_certs: DevCerts) -> None:
    with (
        GRPC.serve(own_certs.server) as port,
        grpc.secure_channel(f"127.0.0.1:{port}", own_certs.client.grpc_channel()) as channel,
    ):
        stub = health_pb2_grpc.HealthStub(channel)
        stub.Check(health_pb2.HealthCheckRequest(), timeout=tls_doors.T)
        own_certs.make()
        stub.Check(health_pb2.HealthCheckRequest(), timeout=tls_doors.T)


def old_client(certs: DevCerts, tmp_path: Path) -> Tls:
    """A client with copies of its files, for when the originals are replaced."""
    kept = tmp_path / "kept"
    shutil.copytree(certs.directory, kept)
    return Tls(kept / "client.crt", kept / "client.key", kept / "ca.crt")
