"""pxctl where every call needs a token: top on a terminal, the archive, and tables of a tenant that one must name."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from auth_cluster import TABLE, Guarded, rows, spec

import proxist

WAIT_S = 60.0
SETTINGS = "settings-canary-51c"


def pxctl(guarded: Guarded, who: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(guarded, *words), env=environment(guarded, who), capture_output=True, text=True,
                          timeout=WAIT_S)  # fmt: skip


def command(guarded: Guarded, *words: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "proxist.cli.pxctl",
        *words,
        "--controlplane",
        guarded.endpoints["controlplane"]["grpc"],
    ]


def environment(guarded: Guarded, who: str) -> dict[str, str]:
    return {**os.environ, "PROXIST_TOKEN": str(guarded.tokens[who]), "COLUMNS": "200", "LINES": "50", "TERM": "xterm"}


@contextmanager
def traffic(guarded: Guarded) -> Iterator[None]:
    """Writes and queries until the block ends; what they raise fails the test."""
    ended = threading.Event()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            with proxist.connect(guarded.endpoints["query"][0]["flight"], token=guarded.tokens["admin"]) as connection:
                table = connection.create_table(spec("acmetop"))
                while not ended.is_set():
                    table.write(rows("A"))
                    table.last_by(["A"])
                table.drop()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, name="traffic")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(WAIT_S)
    assert not failures


def test_top_has_latencies_of_acks_and_queries_for_the_clusters_operator(guarded: Guarded) -> None:
    with traffic(guarded):
        found: dict[str, Any] = {}
        deadline = time.monotonic() + WAIT_S
        while len({row["what"] for row in found.get("latencies", ())} & {"ack disk", "query lastby"}) < 2:
            assert time.monotonic() < deadline, found
            done = pxctl(guarded, "cluster", "top", "--tenant", "acme", "--interval", "0.5", "-o", "json")
            assert done.returncode == 0, done.stderr
            found = json.loads(done.stdout)
    assert found["missing"] == {}
    for row in found["latencies"]:
        assert 0 < row["p50_ms"] <= row["p99_ms"] < 10_000
        assert row["per_s"] > 0
    assert {row["node"] for row in found["latencies"]} == {"ingest-0", "query-0"}


def test_top_shows_a_tenant_its_shards_and_says_whose_right_the_latencies_need(guarded: Guarded) -> None:
    done = pxctl(guarded, "admin", "top", TABLE, "--interval", "0.1", "-o", "json")
    found = json.loads(done.stdout)
    assert {row["table"] for row in found["shards"]} == {TABLE}
    assert found["latencies"] == []
    assert "tenant `*`" in found["missing"]["ingest-0"]


@pytest.mark.parametrize("end", ["q", "Ctrl-C"])
def test_top_lives_on_a_terminal_until_q_or_ctrl_c(guarded: Guarded, end: str) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command(guarded, "top", "--interval", "0.3"), env=environment(guarded, "cluster"), stdin=theirs, stdout=theirs,
        stderr=theirs, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    try:
        with traffic(guarded):
            shown = read_until(ours, lambda text: "ack disk" in text and "query lastby" in text)
        assert TABLE in shown
        assert "p99_ms" in shown
        if end == "q":
            os.write(ours, b"q")
        else:
            process.send_signal(signal.SIGINT)
        left = read_until(ours, lambda _: process.poll() is not None)
        assert process.wait(WAIT_S) == 0, left
        assert "Traceback" not in shown + left
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def read_until(terminal: int, enough: Any) -> str:
    """What the program draws, until it is `enough`."""
    text, deadline = "", time.monotonic() + WAIT_S
    while not enough(text):
        assert time.monotonic() < deadline, text[-2000:]
        if select.select([terminal], [], [], 0.05)[0]:
            with contextlib.suppress(OSError):  # the program has ended
                text += os.read(terminal, 1 << 16).decode(errors="replace")
    return text


def test_the_archive_has_the_segments_and_no_secret_of_the_cluster_or_its_settings(
    guarded: Guarded, tmp_path: Path
) -> None:
    config, out = tmp_path / "settings.yaml", tmp_path / "d.tar.gz"
    config.write_text(
        f"name: query-0\nclickhouse: 'http://user:a b/{SETTINGS}@db:8123'\nclickhouse_password: |\n  first\n  {SETTINGS}\n"
        f"env: [{{name: CLUSTER_SECRET, value: {SETTINGS}}}]\nauth: {{api_token: [{SETTINGS}]}}\ntoken: {guarded.tokens['admin']}\n"
    )
    words = ["--out", str(out), "--config", str(config), "--data-dir", str(guarded.cluster.data_dir)]
    done = pxctl(guarded, "cluster", "diagnostics", "collect", *words, "-o", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["errors"] == {}
    with tarfile.open(out) as archive:
        texts = {m.name.removeprefix("d/"): archive.extractfile(m).read().decode() for m in archive}  # type: ignore[union-attr]
    for name, text in texts.items():
        for canary in (*guarded.secrets, SETTINGS):
            assert canary not in text, name
    assert "name: query-0" in texts["config/settings.yaml"]
    assert len([name for name in texts if name.endswith("metrics.txt")]) == 4
    logs = json.loads(texts["nodes/ingest-0/logs.json"])["logs"]
    for log in (log for log in logs if log["table"] == TABLE):
        files = log["files"]
        assert [file["first"] for file in files][:1] == [log.get("start", "0")]
        assert sum(int(file["bytes"]) for file in files) == int(log["bytes"])
        assert files[-1]["state"] == ("open" if log["state"] == "open" else "sealed")
        assert all(file["synced"] for file in files)


def test_an_operator_of_every_tenant_names_the_tenant_of_a_table(guarded: Guarded, tmp_path: Path) -> None:
    guarded.tokens["root"] = guarded.token("*", "admin")
    try:
        path = tmp_path / "spec.json"
        path.write_text(json.dumps(spec("acmenamed")))

        def run(*words: str) -> Any:
            done = pxctl(guarded, "root", *words, "--tenant", "acme", "-o", "json")
            assert done.returncode == 0, (words, done.stderr)
            return json.loads(done.stdout)

        run("create-table", str(path))
        assert {(one["tenant"], one["name"]) for one in run("tables")} >= {("acme", "acmenamed"), ("acme", TABLE)}
        assert {one["tenant"] for one in run("tables")} == {"acme"}
        assert {one["tenant"] for one in run("shards")} == {"acme"}
        assert {one["table"] for one in run("shards", "acmenamed")} == {"acmenamed"}
        assert {one["tenant"] for one in run("watermarks", "acmenamed")} == {"acme"}
        assert run("persist", "pause", "acmenamed")["paused"] is True
        assert run("persist", "resume", "acmenamed")["paused"] is False
        run("flush", "acmenamed")
        assert [one["end"] for one in run("evict", "acmenamed", "--all")] == [0]
        assert pxctl(guarded, "root", "flush", "acmenamed").returncode == 66, "without --tenant it is the default's"
        assert pxctl(guarded, "wrong tenant", "flush", "acmenamed", "--tenant", "acme").returncode == 77
        run("drop-table", "acmenamed")
        assert "acmenamed" not in {one["name"] for one in run("tables")}
    finally:
        del guarded.tokens["root"]
