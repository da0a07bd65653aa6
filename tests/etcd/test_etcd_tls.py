"""etcd over TLS, with an etcd that demands certificates: what works, what a failed handshake says, renewed files."""

from __future__ import annotations

import shutil
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxist.errors import ConfigError, Unavailable
from proxist.etcd import EtcdClient, KeptLease, Mirror
from proxist.etcd.local import etcd_command
from proxist.etcd.ops import Put, absent
from proxist.rpc.tls import Tls
from proxist.testing.etcd import LocalEtcd
from proxist.testing.tls import DevCerts

DEADLINE_S = 30.0


@pytest.fixture
def own_certs(tmp_path: Path) -> DevCerts:
    """Some that the test may replace."""
    return DevCerts(tmp_path / "certs")


@pytest.fixture
def own_tls_etcd(tmp_path: Path, own_certs: DevCerts) -> Iterator[LocalEtcd]:
    """One that the test may kill and start again."""
    with LocalEtcd(tmp_path, tls=own_certs.server) as etcd:
        yield etcd


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> DevCerts:
    """Of an authority that etcd does not know."""
    return DevCerts(tmp_path_factory.mktemp("strangers"))


def plain(address: str) -> str:
    return address.removeprefix("https://")


def test_keys_leases_and_watches_over_tls_survive_a_restart_of_etcd(
    own_tls_etcd: LocalEtcd, own_certs: DevCerts, prefix: str
) -> None:
    kept_again = threading.Event()
    restarted = threading.Event()
    with EtcdClient([own_tls_etcd.address], tls=own_certs.server) as client:
        lease = KeptLease(client, 10, on_extend=lambda _: kept_again.set() if restarted.is_set() else None).start()
        assert client.txn([absent(prefix + "a")], [Put(prefix + "a", b"1", lease.id)]).succeeded
        mirror = Mirror(client, prefix).start()
        mirror.wait_synced(DEADLINE_S)
        own_tls_etcd.kill()
        assert mirror.wait_until(lambda _: not mirror.synced, DEADLINE_S)
        own_tls_etcd.start()
        restarted.set()
        client.put(prefix + "b", b"2")
        assert mirror.wait_until(lambda view: sorted(view.keys) == [prefix + "a", prefix + "b"], DEADLINE_S)
        assert kept_again.wait(DEADLINE_S)
        assert [kv.value for kv in client.range(prefix)[0]] == [b"1", b"2"]
        mirror.close()
        lease.close()
        assert client.get(prefix + "a") is None


def test_a_failed_handshake_names_the_setting(
    tls_etcd: LocalEtcd, etcd_address: str, certs: DevCerts, strangers: DevCerts
) -> None:
    known, unknown = certs.server, strangers.server
    for address, tls, says in (
        (tls_etcd.address, Tls(known.cert, known.key, unknown.ca), "handshake failed.*authority in `etcd_ca`"),
        (tls_etcd.address, None, "handshake failed.*authority in `etcd_ca`"),
        (tls_etcd.address, certs.nameless, "handshake failed.*wants one.*`tls_cert` and `tls_key`"),
        (tls_etcd.address, Tls(unknown.cert, unknown.key, known.ca), "handshake failed.*refuses the certificate"),
        (tls_etcd.address, certs.client, "handshake failed.*refuses the certificate"),
        (f"https://{etcd_address}", known, "handshake failed.*without https://"),
        (plain(tls_etcd.address), known, "write https:// before the address"),
    ):
        with EtcdClient([address], tls=tls) as client, pytest.raises(Unavailable, match=says) as caught:
            client.get("/a")
        assert plain(address) in caught.value.message


def test_no_call_goes_to_a_proxy_of_the_environment(
    tls_etcd: LocalEtcd, certs: DevCerts, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    with EtcdClient([tls_etcd.address], tls=certs.server) as client:
        assert client.get("/nothing") is None


def test_an_etcd_that_is_away_is_not_taken_for_a_failed_handshake(certs: DevCerts) -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        client = EtcdClient(f"https://127.0.0.1:{taken.getsockname()[1]}", tls=certs.server)
        with client, pytest.raises(Unavailable, match=r"Start it, or correct `etcd` \(PROXIST_ETCD\)\.$"):
            client.get("/a")


def test_reads_go_on_at_another_member_when_the_first_fails_its_handshake(
    tls_etcd: LocalEtcd, etcd_address: str, certs: DevCerts
) -> None:
    with EtcdClient([f"https://{etcd_address}", tls_etcd.address], tls=certs.server) as client:
        assert client.get("/nothing") is None


def test_renewed_files_count_when_a_connection_is_made_anew(
    own_tls_etcd: LocalEtcd, own_certs: DevCerts, prefix: str
) -> None:
    with EtcdClient([own_tls_etcd.address], tls=own_certs.server) as client:
        mirror = Mirror(client, prefix).start()
        mirror.wait_synced(DEADLINE_S)
        own_certs.make()
        client.put(prefix + "before", b"")  # the connection that works is left alone
        own_tls_etcd.kill()
        own_tls_etcd.start()
        client.wait_ready(DEADLINE_S)
        client.put(prefix + "after", b"")
        assert mirror.wait_until(lambda view: prefix + "after" in view.keys, DEADLINE_S)
        mirror.close()


def test_half_replaced_files_do_not_cost_a_client_that_has_good_ones(
    own_tls_etcd: LocalEtcd, own_certs: DevCerts, strangers: DevCerts, prefix: str, tmp_path: Path
) -> None:
    copied = shutil.copytree(own_certs.directory, tmp_path / "copied")
    files = Tls(*(copied / name for name in ("tls.crt", "tls.key", "ca.crt")))
    with EtcdClient([own_tls_etcd.address], tls=files) as client:
        shutil.copy(strangers.directory / "tls.key", copied / "tls.key")
        own_tls_etcd.kill()
        with pytest.raises(Unavailable):
            client.put(prefix + "a", b"")
        own_tls_etcd.start(wait=False)
        client.wait_ready(DEADLINE_S)
        client.put(prefix + "a", b"")


def test_files_that_cannot_be_used_are_named_at_once(tmp_path: Path, certs: DevCerts, strangers: DevCerts) -> None:
    known = certs.server
    for tls, says in (
        (Tls(known.cert, known.key, tmp_path / "absent.crt"), "`tls_ca` is .*absent.crt, which cannot be read"),
        (Tls(known.cert, strangers.server.key, known.ca), "no pair of a certificate and its key"),
    ):
        with pytest.raises(ConfigError, match=says):
            EtcdClient("https://127.0.0.1:2379", tls=tls)
        EtcdClient("127.0.0.1:2379", tls=tls).close()  # plain: nobody reads them


@pytest.mark.parametrize(
    "endpoint", ["https://me:canary-4711@127.0.0.1:2379", "me:canary-4711@h:1", "ftp://h:canary-4711"]
)
def test_an_endpoint_that_is_none_is_refused_without_repeating_a_password(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="`etcd` names a member by something else") as caught:
        EtcdClient(endpoint)
    assert "canary-4711" not in caught.value.message


def test_peers_of_an_etcd_with_tls_must_show_a_certificate(tls_etcd: LocalEtcd, certs: DevCerts) -> None:
    command = etcd_command(Path("data"), 1, 2, tls=certs.server)
    assert {"--listen-peer-urls=https://127.0.0.1:2", "--peer-client-cert-auth", "--client-cert-auth"} <= set(command)
    for tls, refused in ((certs.server, False), (certs.client, True), (certs.nameless, True)):
        context = tls.http_client()
        with socket.create_connection(("127.0.0.1", tls_etcd.peer_port), timeout=DEADLINE_S) as raw:
            try:
                with context.wrap_socket(raw, server_hostname="127.0.0.1") as sock:
                    sock.sendall(b"GET /version HTTP/1.0\r\n\r\n")
                    answered = sock.recv(12).startswith(b"HTTP/1.0 200")
            except (ssl.SSLError, ConnectionError):
                answered = False
        assert answered is not refused
