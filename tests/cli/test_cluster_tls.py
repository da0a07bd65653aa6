"""What `proxist up --tls` prepares before anything runs; tests/journey/test_over_tls.py has the running cluster."""

from __future__ import annotations

import http.server
import stat
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from proxist.cli import diagnostics, parts
from proxist.cli.certs import FILES, make_dev_certs, still_good
from proxist.cli.cluster_tls import SECRET_VARIABLE, ClusterTls, prepare
from proxist.cli.pxctl import main
from proxist.cli.supervisor import _answers, _Life, _tail
from proxist.cli.up import _tls_of
from proxist.rpc.tls import Tls


@pytest.fixture(autouse=True)
def no_secret_of_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SECRET_VARIABLE, raising=False)


def test_what_is_prepared_is_this_users_alone_and_kept(tmp_path: Path) -> None:
    made = prepare(tmp_path)
    assert {path.name for path in made.directory.iterdir()} == {*FILES, "cluster.secret"}
    assert stat.S_IMODE(made.directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(made.secret.stat().st_mode) == 0o600
    before = {path.name: path.read_bytes() for path in made.directory.iterdir()}
    again = prepare(tmp_path)
    assert {path.name: path.read_bytes() for path in again.directory.iterdir()} == before


def test_certificates_that_end_are_made_again_and_the_secret_is_not(tmp_path: Path) -> None:
    made = prepare(tmp_path)
    make_dev_certs(made.directory, days=1)
    secret, ca = made.secret.read_text(), (made.directory / "ca.crt").read_bytes()
    assert (prepare(tmp_path).directory / "ca.crt").read_bytes() != ca
    assert made.secret.read_text() == secret


@pytest.mark.parametrize("left", [["ca.crt", "ca.key"], ["client.key"], ["tls.crt", "tls.key"]])
def test_certificates_of_which_some_are_of_another_making_are_made_again(left: list[str], tmp_path: Path) -> None:
    made = prepare(tmp_path)
    make_dev_certs(tmp_path / "others")
    for name in left:
        (tmp_path / "others" / name).replace(made.directory / name)
    assert not still_good(made.directory)
    prepare(tmp_path)
    assert still_good(made.directory)


def test_a_start_without_tls_of_what_had_tls_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _tls_of(tmp_path, with_tls=False) is None
    assert capsys.readouterr().err == ""
    assert _tls_of(tmp_path, with_tls=True) is not None
    assert _tls_of(tmp_path, with_tls=False) is None
    assert "was run with --tls before" in capsys.readouterr().err


def test_a_secret_that_the_user_names_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SECRET_VARIABLE, str(tmp_path / "mine"))
    made = prepare(tmp_path)
    assert made.secret == tmp_path / "mine"
    assert not (made.directory / "cluster.secret").exists()


def test_no_part_is_left_without_tls_and_no_service_without_tokens(tmp_path: Path) -> None:
    ports = parts.choose_ports(0, 2, 2)
    tls = prepare(tmp_path)
    planned = parts.plan(tmp_path, tmp_path / "run", ports, 2, 2, tls=tls)
    assert len(planned) == 8
    for part in planned:
        line = " ".join(part.command)
        assert "http://" not in line, part.name
        assert str(tls.parts.ca) in line, part.name
        assert str(tls.parts.key) in line, part.name
        if part.role == "etcd":
            assert "--client-cert-auth" in line
            assert "--peer-client-cert-auth" in line
        elif part.role != "clickhouse":
            assert "--tls-clients certificate --auth tokens" in line, part.name
    plain = parts.plan(tmp_path, tmp_path / "run", ports, 2, 2)
    assert not any("tls" in word or "https" in word for part in plain for word in part.command)


def test_a_shell_can_take_what_is_to_be_exported_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / "of a user's").mkdir()
    made = prepare(tmp_path / "of a user's")
    made.token.write_text("px_1_2\n")
    script = "\n".join(f"export {line}" for line in made.exports())
    names = ("PROXIST_TLS_CA", "PROXIST_TLS_CERT", "PROXIST_TLS_KEY", "PROXIST_TOKEN")
    script += "\n" + "\n".join(f'echo "${name}"' for name in names)
    said = subprocess.run(["/bin/sh", "-euc", script], capture_output=True, text=True, check=True, timeout=30).stdout
    assert said.splitlines() == [str(made.client.ca), str(made.client.cert), str(made.client.key), "px_1_2"]


@pytest.mark.parametrize("missing", ["--tls-key", "--tls-cert"])
def test_half_a_pair_is_refused_by_name(missing: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = {"--tls-cert": "a.crt", "--tls-key": "a.key"}
    words = [word for flag, value in given.items() if flag != missing for word in (flag, value)]
    with pytest.raises(SystemExit) as ended:
        main(["status", *words])
    assert ended.value.code == 78
    assert missing.removeprefix("--").replace("-", "_") in capsys.readouterr().err


class _Answering(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def answering(tls: Tls) -> Iterator[str]:
    """A part that shows the certificate of now, and demands one: its probe's address."""
    with http.server.HTTPServer(("127.0.0.1", 0), _Answering) as server:
        server.socket = tls.server_context().wrap_socket(server.socket, server_side=True)
        with serving(server):
            yield f"https://127.0.0.1:{server.server_port}/"


@contextmanager
def serving(server: http.server.HTTPServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()


def test_probes_and_pages_pass_by_a_proxy_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_dev_certs(tmp_path)
    files = ClusterTls(tmp_path)
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(diagnostics, "own", lambda: files.client)
    with answering(files.parts) as url:
        assert _answers(url, files.client)
        assert diagnostics.page_of(url) == ""
    with http.server.HTTPServer(("127.0.0.1", 0), _Answering) as server, serving(server):
        assert _answers(f"http://127.0.0.1:{server.server_port}/", None)


def test_what_a_part_says_at_its_end_is_of_its_last_life(tmp_path: Path) -> None:
    log = tmp_path / "part.log"
    log.write_text("of the life before\n")
    life = _Life(parts.Part("part", "query", ["part"], 0), log)
    life.log_start = log.stat().st_size
    with log.open("a") as more:
        more.write("of this life\n")
    assert _tail(life) == ["of this life"]


def test_a_part_that_starts_again_with_a_renewed_certificate_is_seen_ready(tmp_path: Path) -> None:
    make_dev_certs(tmp_path)
    files = ClusterTls(tmp_path)
    for _ in range(2):
        with answering(files.parts) as url:
            assert _answers(url, files.client)
        for file in tmp_path.iterdir():
            file.unlink()
        assert not _answers(url, files.client), "without its files a probe ended the supervisor"
        make_dev_certs(tmp_path)
