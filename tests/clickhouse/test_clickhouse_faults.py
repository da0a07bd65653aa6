"""The embedded server and the client when things break."""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from proxist.clickhouse import ClickHouse
from proxist.clickhouse.client import parse_endpoint
from proxist.errors import ConfigError, DeadlineExceeded, Unavailable
from proxist.model.ids import ShardId, TableId
from proxist.model.table import Table, parse_spec
from proxist.testing.clickhouse import LocalClickHouse
from proxist.testing.clickhouse_store import Store, count_of, rows_of


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LocalClickHouse]:
    """One that the test may kill, freeze and start again."""
    with LocalClickHouse(tmp_path) as server:
        yield server


@pytest.fixture
def store(server: LocalClickHouse) -> Iterator[Store]:
    store = Store.connect(server.url)
    yield store
    store.close()


def run_program(*args: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "proxist.clickhouse.embedded", *args]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def test_confirmed_rows_and_tokens_survive_kill(server: LocalClickHouse, store: Store) -> None:
    table = store.table()
    store.clickhouse.insert(table, rows_of(table, 10), "a")
    server.kill()
    with pytest.raises(Unavailable) as caught:
        store.clickhouse.insert(table, rows_of(table, 10), "a")
    assert caught.value.details["outcome"] in ("none", "unknown")  # a pooled connection breaks, a new one is refused
    assert not store.clickhouse.ping()
    server.start()
    store.clickhouse.insert(table, rows_of(table, 10), "a")
    assert count_of(store, table) == 10


def test_a_server_that_is_down_has_no_effect(server: LocalClickHouse) -> None:
    url = server.url
    server.stop()
    client = ClickHouse(url)
    with pytest.raises(Unavailable, match="does not answer") as caught:
        client.query("SELECT 1")
    assert caught.value.details["outcome"] == "none"
    client.close()


def test_silence_is_an_unknown_outcome(server: LocalClickHouse, store: Store) -> None:
    table = store.table()
    quick = ClickHouse(server.url, answer_timeout_s=0.5)
    quick.query("SELECT 1")
    server.pause()
    try:
        with pytest.raises(Unavailable) as caught:
            quick.insert(table, rows_of(table, 3), "silent")
        assert caught.value.details["outcome"] == "unknown"
        with pytest.raises(DeadlineExceeded):
            quick.query("SELECT 1", timeout_s=-1.5)  # with its grace of 2 s: half a second
    finally:
        server.resume()
    quick.close()


def test_an_insert_is_sent_once_even_when_the_connection_drops() -> None:
    """clickhouse-connect repeats requests after a dropped connection; an insert must not be among them."""
    requests: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        thread = threading.Thread(target=_answer_then_drop, args=(listener, requests))
        thread.start()
        client = ClickHouse(f"http://127.0.0.1:{listener.getsockname()[1]}")
        table = _any_table()
        with pytest.raises(Unavailable) as caught:
            client.insert(table, rows_of(table, 1), "t")
        client.close()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert caught.value.details["outcome"] == "unknown"
    assert sum(b"INSERT" in request for request in requests) == 1


def _any_table() -> Table:
    columns = [{"name": "ts", "type": "timestamp[ns, tz=UTC]"}, {"name": "symbol", "type": "string"}]
    spec = parse_spec({"name": "t", "time": "ts", "key": "symbol", "columns": columns})
    return Table(TableId(1), "default", spec, (ShardId(7),))


def _answer_then_drop(listener: socket.socket, requests: list[bytes]) -> None:
    """What the client asks when it connects is answered as ClickHouse would; an INSERT is read and dropped."""
    while True:
        try:
            sock, _ = listener.accept()
        except OSError:
            return
        with sock, sock.makefile("rb") as stream:
            while True:
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    line = stream.readline()
                    if not line:
                        break
                    head += line
                if not head:
                    break
                lengths = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")]
                body = stream.read(int(lengths[0].split(b":")[1])) if lengths else b""
                requests.append(head + body)
                if b"INSERT" in head:
                    break
                answer = b"26.9.2.1\tUTC\n" if b"version()" in body else b""
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(answer), answer))


def test_half_a_body_is_not_executed(store: Store) -> None:
    table = store.table()
    name = f"conformance.{table.name}".encode()
    insert = b"INSERT INTO " + name + b" FORMAT CSV\n" + b"1,A,1,1\n"
    for head in (
        b"Content-Length: %d\r\n\r\n" % (len(insert) + 8),
        b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(insert),
    ):
        host, port = store.clickhouse.endpoint.host, store.clickhouse.endpoint.port
        with socket.create_connection((host, port)) as sock:
            sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\n" + head + insert)
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(100) == b""
    assert count_of(store, table) == 0


def test_bad_requests_are_answered(server: LocalClickHouse) -> None:
    end = parse_endpoint(server.url)
    for method, path, headers, status in (
        ("GET", "/ping", {}, 200),
        ("GET", "/", {}, 200),
        ("GET", "/nowhere", {}, 404),
        ("DELETE", "/", {}, 501),
        ("POST", "/", {"Content-Length": "-1"}, 400),
        ("POST", "/?query=SELECT+1", {"Content-Encoding": "br"}, 501),
        ("POST", "/?query=SELECT+1", {"Content-Encoding": "gzip"}, 500),
        ("GET", "/?query=CREATE+DATABASE+x", {}, 403),
        ("GET", "/?query=SELECT+1&no_such_setting=1", {}, 404),
    ):
        connection = http.client.HTTPConnection(end.host, end.port, timeout=10)
        body = "x" if "Content-Encoding" in headers else None
        connection.request(method, path, body=body, headers=headers)
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status == status, (method, path, text)
        if answer.getheader("X-ClickHouse-Exception-Code"):
            assert text.startswith(f"Code: {answer.getheader('X-ClickHouse-Exception-Code')}. DB::Exception: ".encode())
        connection.close()


def test_sigterm_lets_a_running_statement_answer(server: LocalClickHouse, store: Store) -> None:
    answers: list[pa.Table] = []

    def slow() -> None:
        sql = "SELECT sum(sleepEachRow(0.2)) AS s FROM numbers(15) SETTINGS max_block_size = 1"
        answers.append(store.clickhouse.query(sql))

    thread = threading.Thread(target=slow)
    thread.start()
    running = "SELECT count() AS c FROM system.processes"
    while thread.is_alive() and store.clickhouse.query(running)["c"][0].as_py() < 2:
        continue
    assert server.stop() == 0
    thread.join()
    assert answers[0]["s"].to_pylist() == [0]


def test_a_second_process_on_the_directory_is_refused(server: LocalClickHouse) -> None:
    ended = run_program("--path", str(server.data_dir / "clickhouse"), "--port", "0")
    assert ended.returncode == 73
    assert "in use by another process" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_taken_port_is_named(server: LocalClickHouse, tmp_path: Path) -> None:
    port = server.url.rpartition(":")[2]
    ended = run_program("--path", str(tmp_path / "other"), "--port", port)
    assert ended.returncode == 71
    assert f"127.0.0.1:{port}" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("url", ["127.0.0.1:8123", "ftp://x", "http://", "http://x:notaport"])
def test_a_wrong_url_is_named(url: str) -> None:
    with pytest.raises(ConfigError, match="HTTP interface"):
        parse_endpoint(url)


def test_urls_carry_user_and_port() -> None:
    end = parse_endpoint("https://me:p%40ss@ch.example")
    assert (end.host, end.port, end.user, end.password, end.secure) == ("ch.example", 8443, "me", "p@ss", True)
