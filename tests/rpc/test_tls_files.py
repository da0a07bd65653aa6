"""TLS files that cannot be used: each is refused at start with its setting, its path and the reason."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from proxist.errors import ConfigError
from proxist.rpc.flight_client import FlightPeer
from proxist.rpc.grpc_client import connect
from proxist.rpc.tls import Tls, from_environment
from proxist.testing.tls import DevCerts


@pytest.fixture
def certs(tmp_path: Path) -> DevCerts:
    return DevCerts(tmp_path)


def encrypt(certs: DevCerts) -> None:
    path = certs.directory / "tls.key"
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    password = serialization.BestAvailableEncryption(b"secret")
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, password))


WRONG: dict[str, tuple[Callable[[DevCerts], object], str]] = {
    "no certificate": (lambda c: (c.directory / "tls.crt").unlink(), "`tls_cert` is .*tls.crt.*No such file"),
    "no key": (lambda c: (c.directory / "tls.key").unlink(), "`tls_key` is .*tls.key.*No such file"),
    "no authority": (lambda c: c.ca.unlink(), "`tls_ca` is .*ca.crt.*No such file"),
    "a directory": (lambda c: (c.ca.unlink(), c.ca.mkdir()), "`tls_ca` is .*ca.crt.*Is a directory"),
    "another key": (
        lambda c: (c.directory / "client.key").replace(c.directory / "tls.key"),
        "`tls_cert` .*tls.crt and `tls_key` .*tls.key are no pair.*key values mismatch",
    ),
    "a key with a password": (encrypt, "are no pair.*the key without a password"),
    "no PEM": (lambda c: (c.directory / "tls.crt").write_text("hello"), "are no pair.*no start line|pem lib"),
    "an empty authority": (lambda c: c.ca.write_text(""), "`tls_ca` .*ca.crt holds no certificate"),
}


@pytest.mark.parametrize("name", WRONG)
def test_files_that_cannot_be_used_are_named(name: str, certs: DevCerts) -> None:
    spoil, says = WRONG[name]
    spoil(certs)
    tls = certs.server
    for use in (
        tls.check,
        tls.flight_server,
        tls.flight_client,
        tls.grpc_server,
        tls.grpc_channel,
        tls.http_server,
        tls.http_client,
        lambda: FlightPeer("grpc+tls://127.0.0.1:1", tls=tls),
        lambda: connect("127.0.0.1:1", tls=tls),
    ):
        with pytest.raises(ConfigError, match=says):
            use()


def test_a_service_does_not_start_with_files_that_do_not_fit(certs: DevCerts, tmp_path: Path) -> None:
    (certs.directory / "client.key").replace(certs.directory / "tls.key")
    files = {"cert": "tls.crt", "key": "tls.key", "ca": "ca.crt"}
    flags = [f"--tls-{name}={certs.directory / file}" for name, file in files.items()]
    command = [sys.executable, "-m", "proxist_persister", "--data-dir", str(tmp_path / "data"), *flags]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (ended.returncode, ended.stdout) == (78, "")
    assert "error persister-0: `tls_cert`" in ended.stderr
    assert "are no pair" in ended.stderr


def test_a_client_reads_its_files_from_three_variables(certs: DevCerts) -> None:
    assert from_environment({}) == Tls()
    assert from_environment({"PROXIST_TLS_CA": str(certs.ca), "PROXIST_TLS_CERT": "", "PROXIST_TLS_KEY": ""}) == Tls(
        ca=certs.ca
    )
    pair = {"PROXIST_TLS_CERT": "c", "PROXIST_TLS_KEY": "k"}
    assert from_environment(pair) == Tls(Path("c"), Path("k"))
    with pytest.raises(ConfigError, match="`tls_key` is given without `tls_cert`"):
        from_environment({"PROXIST_TLS_KEY": "k"})
