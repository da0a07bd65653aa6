"""The page about rotation, run from top to bottom on a cluster with TLS and tokens: afterwards nothing old is trusted."""

from __future__ import annotations

from pathlib import Path

import pytest
from operator_pages import OPERATIONS, run_page
from shell_blocks import CHART_SECRET, Shell

import proxist
from proxist.auth.cluster import ClusterSecret
from proxist.rpc.tls import Tls
from proxist.testing.cluster import LocalCluster

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(300)]
PAGE = OPERATIONS / "rotate.md"


def test_a_rotation_leaves_a_cluster_that_trusts_only_the_new(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with LocalCluster(tmp_path / "cluster", tls=True) as cluster:
        kept = cluster.data_dir / "tls"
        before = {name: (kept / name).read_text() for name in ("ca.crt", "client.crt", "client.key", "cluster.secret")}
        home = tmp_path / "operator"
        home.mkdir()
        run_page(PAGE, Shell(home, cluster), cluster, capsys)
        assert (kept / "ca.crt").read_text() == (home / "new" / "ca.crt").read_text()
        assert (kept / "cluster.secret").read_text() == (home / "new.secret").read_text()
        both = home / "both.secret"
        assert both.read_text().split() == [CHART_SECRET, (home / "new.secret").read_text().strip()]
        assert both.stat().st_mode & 0o077 == 0
        uri = cluster.endpoints["query"][0]["flight"]
        _refused(uri, _files(tmp_path / "old", before), None)
        old_secret = ClusterSecret((before["cluster.secret"].strip(),)).sign("stranger")
        _refused(uri, None, old_secret)


def _files(directory: Path, contents: dict[str, str]) -> Tls:
    directory.mkdir()
    for name, text in contents.items():
        (directory / name).write_text(text)
    return Tls(directory / "client.crt", directory / "client.key", directory / "ca.crt")


def _refused(uri: str, tls: Tls | None, token: str | None) -> None:
    files = {} if tls is None else {"tls_ca": tls.ca, "tls_cert": tls.cert, "tls_key": tls.key}
    with (
        pytest.raises((proxist.errors.Unavailable, proxist.errors.Unauthenticated)),
        proxist.connect(uri, token=token, timeout_s=5, **files) as connection,
    ):
        connection.tables()
