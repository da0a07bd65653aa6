"""The `proxist` command itself: what it lists, what it passes on, what it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import fake_service
import pytest

import proxist


def run(*argv: str, packages: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **({"PYTHONPATH": str(packages)} if packages else {})}
    command = [sys.executable, "-m", "proxist.cli.proxist", *argv]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)


def test_help_lists_every_program() -> None:
    text = run("--help").stdout
    for name in ("up", "ingest", "query", "persister", "controlplane", "clickhouse", "replay", "demo"):
        assert f"\n  {name} " in text


def test_version() -> None:
    assert run("--version").stdout == f"proxist {proxist.__version__}\n"


@pytest.mark.parametrize("role", ["ingest", "query", "persister", "controlplane"])
def test_a_service_gets_its_flags_unchanged(role: str, tmp_path: Path) -> None:
    packages = fake_service.package(tmp_path / "packages")
    assert f"proxist {role}: one {role} service. Settings:" in run(role, "--help", packages=packages).stdout
    refused = run(role, "--nope", "1", packages=packages)
    assert refused.returncode == 78
    assert refused.stderr.startswith(f"error {role}: '--nope' is not a flag")


@pytest.mark.parametrize(("argv", "part"), [(["nope"], "nope"), (["up", "--ports", "1"], "--ports")])
def test_what_is_unknown_is_named(argv: list[str], part: str) -> None:
    refused = run(*argv)
    assert refused.returncode == 2
    assert part in refused.stderr


@pytest.mark.parametrize("count", ["0", "6"])
def test_up_refuses_a_count_out_of_range(count: str, tmp_path: Path) -> None:
    refused = run("up", "--data-dir", str(tmp_path), "--ingest", count)
    assert refused.returncode == 78
    assert refused.stderr == (
        f"error: `--ingest` is {count}, but must be from 1 to 5 on one machine. Choose a number in between.\n"
    )


def test_help_loads_nothing_heavy() -> None:
    program = "import sys, proxist.cli.proxist; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"pyarrow", "grpc", "numpy", "pydantic", "structlog"} & set(done.stdout.split())
