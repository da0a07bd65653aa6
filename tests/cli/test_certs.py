"""`pxctl certs dev`: what it makes is trusted where it should be, and nowhere else."""

from __future__ import annotations

import json
import socket
import ssl
import stat
from pathlib import Path

import pytest

from proxist.cli.certs import FILES, make_dev_certs, still_good
from proxist.cli.pxctl import main
from proxist.errors import InvalidArgument


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("certs")
    make_dev_certs(out, ["node-7.example", "10.1.2.3"])
    return out


def shake_hands(made: Path, server: str, client: str | None, name: str, ca: Path | None = None) -> None:
    """One handshake in memory, both sides verifying; raises ssl.SSLError as the side does that refuses."""
    ca = ca or made / "ca.crt"
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(made / f"{server}.crt", made / f"{server}.key")
    serving.load_verify_locations(made / "ca.crt")
    serving.verify_mode = ssl.CERT_REQUIRED
    calling = ssl.create_default_context(cafile=ca)
    calling.verify_flags |= ssl.VERIFY_X509_STRICT
    if client is not None:
        calling.load_cert_chain(made / f"{client}.crt", made / f"{client}.key")
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [serving.wrap_bio(up, down, server_side=True), calling.wrap_bio(down, up, server_hostname=name)]
    for _ in range(4):
        for side in reversed(sides):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    sides[0].write(b"x")
    assert sides[1].read(1) == b"x"


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1", socket.gethostname(), "node-7.example", "10.1.2.3"])
@pytest.mark.parametrize("client", ["client", "tls"])
def test_services_and_clients_trust_each_other_under_every_name(made: Path, name: str, client: str) -> None:
    shake_hands(made, "tls", client, name)


def test_another_name_or_authority_is_not_trusted(made: Path, tmp_path: Path) -> None:
    make_dev_certs(tmp_path)
    with pytest.raises(ssl.SSLCertVerificationError, match="[Hh]ostname mismatch"):
        shake_hands(made, "tls", "client", "elsewhere.example")
    with pytest.raises(ssl.SSLCertVerificationError, match="verify failed"):
        shake_hands(made, "tls", "client", "localhost", ca=tmp_path / "ca.crt")


def test_a_clients_certificate_serves_nobody_and_a_caller_without_one_is_refused(made: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(made, "client", "client", "localhost")
    with pytest.raises(ssl.SSLError, match="(?i)peer did not return a certificate"):
        shake_hands(made, "tls", None, "localhost")


def test_keys_are_for_their_user_alone_also_when_written_again(tmp_path: Path) -> None:
    for _ in range(2):
        make_dev_certs(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)
        for name in FILES:
            mode = stat.S_IMODE((tmp_path / name).stat().st_mode)
            assert not mode & 0o077 or not name.endswith(".key"), f"{name} has mode {mode:o}"


def test_what_ends_tomorrow_or_misses_a_file_is_no_longer_good(tmp_path: Path) -> None:
    assert not still_good(tmp_path)
    make_dev_certs(tmp_path, days=2)
    assert still_good(tmp_path)
    (tmp_path / "ca.key").unlink()
    assert not still_good(tmp_path)
    make_dev_certs(tmp_path, days=1)
    assert not still_good(tmp_path)


@pytest.mark.parametrize(
    ("hosts", "days", "what"), [(["ä.example"], 1, "ä.example"), ([""], 1, "''"), ([], 0, "0 days")]
)
def test_what_cannot_be_in_a_certificate_is_refused_by_name(
    tmp_path: Path, hosts: list[str], days: int, what: str
) -> None:
    with pytest.raises(InvalidArgument, match=what):
        make_dev_certs(tmp_path, hosts, days)
    assert not list(tmp_path.iterdir())


def test_the_command_never_writes_over_files_unless_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["certs", "dev", "--out", str(tmp_path), "--host", "node-7.example", "-o", "json"]
    main_ends(0, words)
    assert json.loads(capsys.readouterr().out)["files"] == list(FILES)
    first = (tmp_path / "ca.crt").read_bytes()
    shake_hands(tmp_path, "tls", "client", "node-7.example")
    main_ends(73, words)
    assert "--force" in capsys.readouterr().err
    assert (tmp_path / "ca.crt").read_bytes() == first
    main_ends(0, [*words, "--force"])
    assert (tmp_path / "ca.crt").read_bytes() != first


def main_ends(code: int, words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert int(ended.value.code or 0) == code
