"""The unit and its environment files: systemd takes them, and the services start with exactly what they say."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from proxist.cli.certs import make_dev_certs
from proxist.config import ServiceConfig, load
from proxist.rpc import child
from proxist.testing.cluster import LocalCluster
from proxist_controlplane.config import ControlPlaneConfig
from proxist_ingest.config import IngestConfig
from proxist_persister.config import PersisterConfig
from proxist_query.config import QueryConfig

SYSTEMD = Path(__file__).resolve().parents[2] / "deploy" / "systemd"
UNIT = SYSTEMD / "proxist@.service"
CONFIGS: dict[str, type[ServiceConfig]] = {
    "ingest": IngestConfig,
    "query": QueryConfig,
    "persister": PersisterConfig,
    "controlplane": ControlPlaneConfig,
}


def unit() -> dict[str, list[tuple[str, str]]]:
    """The settings of each section, in order; systemd lets one stand several times."""
    found: dict[str, list[tuple[str, str]]] = {}
    for line in UNIT.read_text().splitlines():
        if line.startswith("["):
            section = found.setdefault(line.strip("[]"), [])
        elif line and not line.startswith("#"):
            name, _, value = line.partition("=")
            section.append((name, value))
    return found


def values(name: str) -> list[str]:
    return [value for key, value in unit()["Service"] if key == name]


def variables(path: Path) -> dict[str, str]:
    lines = (line for line in path.read_text().splitlines() if line and not line.startswith("#"))
    return dict(line.split("=", 1) for line in lines)


def environment(role: str) -> dict[str, str]:
    """What a service of this role is started with, all files as they lie here."""
    own = SYSTEMD / f"{role}.env"
    inline = dict(pair.split("=", 1) for value in values("Environment") for pair in value.split())
    given = {**inline, **variables(SYSTEMD / "proxist.env"), **(variables(own) if own.exists() else {})}
    return {name: value.replace("%i", role) for name, value in given.items()}


@pytest.mark.parametrize("role", CONFIGS)
def test_the_sample_settings_are_settings_of_every_service(role: str) -> None:
    config = load(CONFIGS[role], env=environment(role), defaults={"name": f"{role}-0"})
    assert config.auth == "tokens"
    assert str(config.data_dir) == f"/var/lib/proxist/{role}"
    assert values("EnvironmentFile") == ["/etc/proxist/proxist.env", "-/etc/proxist/%i.env"]
    assert f"proxist/{role}" in values("StateDirectory")[0].replace("%i", role).split()
    assert config.run_dir == Path("/run") / values("RuntimeDirectory")[0]
    assert int(values("TimeoutStopSec")[0]) > config.stop_grace_s


def test_the_unit_gives_no_privilege_and_lets_the_kernels_run() -> None:
    service = dict(unit()["Service"])
    assert (service["User"], service["CapabilityBoundingSet"], service["NoNewPrivileges"]) == ("proxist", "", "yes")
    assert "MemoryDenyWriteExecute" not in service, "compiled kernels are written and executed"
    assert "ProcSubset" not in service, "the identity of the host is read from /proc/sys"


@pytest.mark.parametrize("role", CONFIGS)
def test_systemd_takes_the_unit(role: str, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not on the PATH; the unit was only parsed")
    (program,) = {line.split()[0] for line in values("ExecStart")}
    instance = tmp_path / f"proxist@{role}.service"
    instance.write_text(UNIT.read_text().replace(program, "/bin/true"))
    checked = subprocess.run(["systemd-analyze", "verify", instance], capture_output=True, text=True, timeout=60)
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.cluster
def test_the_services_start_as_the_unit_starts_them(tmp_path: Path, cluster: LocalCluster) -> None:
    """Paths and ports become this machine's, and the names new ones; TLS, tokens and every other setting are the files'.

    They join the stores of a cluster that runs.
    """
    make_dev_certs(tmp_path / "etc" / "tls", ["node-1.example.com"])
    (tmp_path / "etc" / "cluster.secret").write_text("s" * 64 + "\n")
    (tmp_path / "run").mkdir(mode=0o700)
    stores = {"PROXIST_ETCD": cluster.endpoints["etcd"], "PROXIST_CLICKHOUSE": cluster.endpoints["clickhouse"]}
    started = {role: _start(role, tmp_path, stores) for role in CONFIGS}
    try:
        for role, process in started.items():
            assert process.stdout is not None
            line = next((line for line in process.stdout if line.startswith("ready ")), "")
            assert f" role={role} name={role}-unit " in line
            if role in ("ingest", "query"):
                assert " flight=grpc+tls://localhost:" in line
    finally:
        for process in started.values():
            process.terminate()
        for process in started.values():
            assert process.stdout is not None
            process.stdout.close()
            assert process.wait(30) == 0


def _start(role: str, root: Path, stores: dict[str, str]) -> subprocess.Popen[str]:
    given = environment(role) | stores
    given |= {"PROXIST_NAME": f"{role}-unit", "PROXIST_ADVERTISE_HOST": "localhost", "PROXIST_LOG_LEVEL": "error"}
    given |= {f"PROXIST_{door}_PORT": "0" for door in ("FLIGHT", "GRPC", "HTTP")}
    for theirs, ours in (("/etc/proxist", "etc"), ("/var/lib/proxist", "lib"), ("/run/proxist", "run")):
        given = {name: value.replace(theirs, str(root / ours)) for name, value in given.items()}
    del given["PROXIST_KERNEL_CACHE"]  # of an installation; here the kernels are those of the tree
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PROXIST_")}
    (command,) = values("ExecStart")
    program, *words = command.replace("%i", role).split()
    assert program == "/opt/proxist/bin/proxist"
    run = [sys.executable, "-m", "proxist.cli.proxist", *words]
    return subprocess.Popen(child.command(run), env=kept | given, stdout=subprocess.PIPE, text=True)
