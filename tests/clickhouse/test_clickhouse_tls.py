"""ClickHouse over TLS: the embedded server that demands certificates, and what the client says of failed handshakes."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxist.clickhouse import ClickHouse
from proxist.clickhouse.embedded.__main__ import _arguments, _tls
from proxist.errors import ConfigError, ProxistError, Unavailable
from proxist.rpc.tls import PLAIN, Tls
from proxist.testing.clickhouse import LocalClickHouse
from proxist.testing.clickhouse_store import Store, count_of, rows_of
from proxist.testing.tls import DevCerts

DEADLINE_S = 30.0


@pytest.fixture
def own_certs(tmp_path: Path) -> DevCerts:
    """Some that the test may replace."""
    return DevCerts(tmp_path / "certs")


@pytest.fixture
def own_server(tmp_path: Path, own_certs: DevCerts) -> Iterator[LocalClickHouse]:
    """One that the test may stop."""
    with LocalClickHouse(tmp_path, tls=own_certs.server) as server:
        yield server


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> DevCerts:
    """Of an authority that the server does not know."""
    return DevCerts(tmp_path_factory.mktemp("strangers"))


def test_a_failed_handshake_names_the_setting_and_has_no_effect(
    tls_embedded: LocalClickHouse, embedded: LocalClickHouse, certs: DevCerts, strangers: DevCerts
) -> None:
    known, unknown = certs.server, strangers.server
    for url, tls, says in (
        (tls_embedded.url, Tls(known.cert, known.key, unknown.ca), "handshake.*failed.*authority in `clickhouse_ca`"),
        (tls_embedded.url, PLAIN, "handshake.*failed.*authority in `clickhouse_ca`"),
        (tls_embedded.url, None, "handshake.*failed.*authority in `clickhouse_ca`"),
        (tls_embedded.url, certs.nameless, "handshake.*failed.*set `tls_cert` and `tls_key`"),
        (tls_embedded.url, Tls(unknown.cert, unknown.key, known.ca), "handshake.*failed.*set `tls_cert` and `tls_key`"),
        (embedded.url.replace("http://", "https://"), known, "handshake.*failed.*does not speak TLS"),
        (tls_embedded.url.replace("https://", "http://"), known, "must begin with https://"),
    ):
        client = ClickHouse(url, tls=tls)
        assert not client.ping()
        with pytest.raises(Unavailable, match=f"(?i){says}") as caught:
            client.command("CREATE DATABASE never")
        assert caught.value.details["outcome"] == "none"
        assert ("reason" in caught.value.details) is ("TLS handshake" in caught.value.message)
        assert url.partition("//")[2] in caught.value.message
        client.close()
    store = Store.connect(tls_embedded.url, known)
    assert store.clickhouse.query("SELECT 1 AS a FROM system.databases WHERE name = 'never'").num_rows == 0
    store.close()


def test_a_clients_certificate_opens_nothing(tls_embedded: LocalClickHouse, certs: DevCerts) -> None:
    client = ClickHouse(tls_embedded.url, tls=certs.client)
    assert not client.ping()
    with pytest.raises(ProxistError, match="this certificate is a client's"):
        client.command("CREATE DATABASE never")
    client.close()


def test_a_server_that_is_away_is_not_taken_for_a_failed_handshake(certs: DevCerts) -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        client = ClickHouse(f"https://127.0.0.1:{taken.getsockname()[1]}", tls=certs.server)
        with pytest.raises(Unavailable, match="does not answer. Check that it runs"):
            client.query("SELECT 1")


def test_what_the_machine_trusts_is_trusted_where_no_authority_is_given(
    tls_embedded: LocalClickHouse, certs: DevCerts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certs.ca))
    client = ClickHouse(tls_embedded.url, tls=Tls(certs.server.cert, certs.server.key))
    assert client.query("SELECT 1 AS a").to_pylist() == [{"a": 1}]
    client.close()


def test_renewed_files_count_for_new_connections_on_both_sides(
    own_server: LocalClickHouse, own_certs: DevCerts, tmp_path: Path
) -> None:
    shutil.copytree(own_certs.directory, tmp_path / "before")
    before = Tls(*(tmp_path / "before" / name for name in ("tls.crt", "tls.key", "ca.crt")))
    client = ClickHouse(own_server.url, tls=own_certs.server)
    client.query("SELECT 1")
    own_certs.make()
    client.query("SELECT 1")  # the connection that works is left alone
    client.close()
    client.query("SELECT 1")
    client.close()
    late = ClickHouse(own_server.url, tls=before)
    with pytest.raises(Unavailable, match="authority in `clickhouse_ca`"):
        late.query("SELECT 1")
    late.close()


def test_half_replaced_files_do_not_cost_a_server_that_has_good_ones(
    own_server: LocalClickHouse, own_certs: DevCerts, strangers: DevCerts, tmp_path: Path
) -> None:
    copied = shutil.copytree(own_certs.directory, tmp_path / "copied")
    files = Tls(*(copied / name for name in ("tls.crt", "tls.key", "ca.crt")))
    shutil.copy(strangers.directory / "tls.key", own_certs.directory / "tls.key")
    client = ClickHouse(own_server.url, tls=files)
    assert client.query("SELECT 1 AS a").to_pylist() == [{"a": 1}]
    client.close()


def test_confirmed_rows_survive_a_restart_over_tls(own_server: LocalClickHouse, own_certs: DevCerts) -> None:
    store = Store.connect(own_server.url, own_certs.server)
    table = store.table()
    store.clickhouse.insert(table, rows_of(table, 10), "a")
    own_server.kill()
    with pytest.raises(Unavailable):
        store.clickhouse.query("SELECT 1")
    own_server.start()
    store.clickhouse.insert(table, rows_of(table, 10), "a")
    assert count_of(store, table) == 10
    store.close()


def test_sigterm_ends_a_server_whose_clients_stay_connected(own_server: LocalClickHouse, own_certs: DevCerts) -> None:
    client = ClickHouse(own_server.url, tls=own_certs.server)
    client.query("SELECT 1")
    assert own_server.stop() == 0
    client.close()


def test_a_client_that_never_begins_its_handshake_holds_up_nobody(
    tls_embedded: LocalClickHouse, certs: DevCerts
) -> None:
    port = int(tls_embedded.url.rpartition(":")[2])
    client = ClickHouse(tls_embedded.url, tls=certs.server)
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S):
        assert client.query("SELECT 1 AS a", timeout_s=DEADLINE_S).to_pylist() == [{"a": 1}]
    client.close()


def test_without_an_authority_the_server_lets_in_whoever_trusts_it(tmp_path: Path, certs: DevCerts) -> None:
    with LocalClickHouse(tmp_path, tls=Tls(certs.server.cert, certs.server.key)) as server:
        client = ClickHouse(server.url, tls=certs.nameless)
        assert client.query("SELECT 1 AS a").to_pylist() == [{"a": 1}]
        client.close()


def test_files_that_cannot_be_used_are_named_at_once(tmp_path: Path, certs: DevCerts, strangers: DevCerts) -> None:
    known = certs.server
    for tls, says in (
        (Tls(known.cert, known.key, tmp_path / "absent.crt"), "`tls_ca` is .*absent.crt, which cannot be read"),
        (Tls(known.cert, strangers.server.key, known.ca), "no pair of a certificate and its key"),
    ):
        with pytest.raises(ConfigError, match=says):
            ClickHouse("https://127.0.0.1:8443", tls=tls)
        ClickHouse("http://127.0.0.1:8123", tls=tls).close()  # plain: nobody reads them


def test_the_server_refuses_half_of_its_flags(tmp_path: Path, certs: DevCerts, strangers: DevCerts) -> None:
    own, other = certs.server, strangers.server
    for flags, says in (
        (["--tls-cert", own.cert], "`tls_cert` is given without `tls_key`"),
        (["--host", "0.0.0.0"], "other machines can reach.*say --insecure"),
        (
            ["--host", "0.0.0.0", "--tls-cert", own.cert, "--tls-key", own.key],
            "Give --tls-cert, --tls-key and --tls-ca",
        ),
        (["--tls-ca", own.ca], "--tls-ca is given without --tls-cert and --tls-key"),
        (["--tls-cert", own.cert, "--tls-key", other.key], "no pair of a certificate and its key"),
        (["--tls-cert", own.cert, "--tls-key", tmp_path / "absent"], "cannot be read"),
    ):
        with pytest.raises(ConfigError, match=says):
            _tls(_arguments(["--path", str(tmp_path), *map(str, flags)]))


def test_the_server_listens_off_loopback_where_that_is_closed_or_said(tmp_path: Path, certs: DevCerts) -> None:
    own = certs.server
    files = ["--tls-cert", str(own.cert), "--tls-key", str(own.key), "--tls-ca", str(own.ca)]
    for flags in (files, ["--insecure"]):
        _tls(_arguments(["--path", str(tmp_path), "--host", "0.0.0.0", *flags]))


def test_no_password_stands_in_an_error_or_in_what_an_endpoint_prints() -> None:
    for url in (
        "ftp://me:canary-4711@h",
        "me:canary-4711@h:8123",
        "http://me:canary/4711@h:x",
        "http://me:canary@4711@",
    ):
        with pytest.raises(ProxistError, match="HTTP interface") as caught:
            ClickHouse(url)
        assert "4711" not in caught.value.message
    client = ClickHouse("http://me:canary-4711@127.0.0.1:1")
    assert client.endpoint.password == "canary-4711"
    assert "4711" not in f"{client.endpoint} {client.endpoint!r} {client.endpoint.url}"
    with pytest.raises(Unavailable) as down:
        client.query("SELECT 1")
    assert "4711" not in str(down.value.to_json())
