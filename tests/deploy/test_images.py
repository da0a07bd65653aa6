"""The image and the compose file: what they name exists, what they set is a setting, and they ask for no privilege."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxist.config import NOT_SETTINGS, ServiceConfig, load
from proxist_controlplane.config import ControlPlaneConfig
from proxist_ingest.config import IngestConfig
from proxist_persister.config import PersisterConfig
from proxist_query.config import QueryConfig

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "deploy" / "docker" / "Dockerfile"
COMPOSE = ROOT / "deploy" / "docker" / "compose.yaml"
CONFIGS: dict[str, type[ServiceConfig]] = {
    "ingest": IngestConfig,
    "query": QueryConfig,
    "persister": PersisterConfig,
    "controlplane": ControlPlaneConfig,
}
PINNED = re.compile(r"^[a-z0-9./-]+:v?\d+\.\d+(\.\d+)?(-[a-z0-9-]+)?$")


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.M).replace("\\\n", " ")
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in text.splitlines() if line.strip()]


def values(instruction: str) -> list[str]:
    return [rest for name, rest in instructions() if name == instruction]


def compose() -> dict[str, Any]:
    return dict(yaml.safe_load(COMPOSE.read_text()))


def programs() -> dict[str, dict[str, Any]]:
    return {name: s for name, s in compose()["services"].items() if s["image"].startswith("proxist:")}


def test_bases_and_images_are_pinned() -> None:
    images = [value.split()[0] for value in values("FROM")] + [s["image"] for s in compose()["services"].values()]
    assert len(values("FROM")) == 2
    assert [image for image in images if not PINNED.match(image)] == []


def test_the_image_runs_as_a_user_without_rights_and_with_the_kernels_compiled() -> None:
    last = DOCKERFILE.read_text().rpartition("FROM ")[2]
    assert "USER 10001:10001" in last
    assert "ENTRYPOINT" in last.partition("USER")[2]
    (warm,) = [run for run in values("RUN") if "proxist.hot.warm" in run]
    assert re.search(r"touch -d @\d+ .*proxist\.hot\.warm.*chmod .*go-w", warm)
    caches = [env for env in values("ENV") if "PROXIST_KERNEL_CACHE=/opt/proxist/kernels" in env]
    assert len(caches) == 2, "compiled into the directory that is read later"


def test_what_is_copied_exists_and_is_not_ignored() -> None:
    allowed = (DOCKERFILE.parent / "Dockerfile.dockerignore").read_text().split()
    for copy in values("COPY"):
        if not copy.startswith("--from"):
            for source in copy.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert f"!{source}" in allowed, source


@pytest.mark.parametrize("path", [DOCKERFILE, COMPOSE], ids=lambda path: path.name)
def test_no_host_of_a_package_index_is_named(path: Path) -> None:
    assert not re.search(r"inde[x]-url|pyp[i]|simpl[e]/?\s|trusted-hos[t]|PIP_INDE[X]", path.read_text(), re.I)


def test_entry_points_are_the_programs() -> None:
    scripts = re.findall(r"^(\w+) = \"proxist\.cli", (ROOT / "pyproject.toml").read_text(), re.M)
    assert values("ENTRYPOINT") == ['["proxist"]']
    assert "proxist" in scripts
    assert sorted(s["command"][0] for s in programs().values()) == sorted(CONFIGS)


def test_every_program_takes_its_environment_and_has_its_own_name_and_ports() -> None:
    ports: list[str] = []
    for name, service in programs().items():
        config = load(CONFIGS[service["command"][0]], env={**service["environment"], "PROXIST_KERNEL_CACHE": "/k"})
        assert config.name == config.advertise_host == name
        doors = [config.flight_port, config.grpc_port, config.http_port]
        assert service["ports"] == [f"127.0.0.1:{port}:{port}" for port in doors if port]
        ports += service["ports"]
        mounts = [mount.partition(":")[2] for mount in service["volumes"]]
        assert mounts == [str(config.data_dir), str(config.run_dir)]
    assert len(set(ports)) == len(ports)
    assert "PROXIST_KERNEL_CACHE" in NOT_SETTINGS


def test_programs_have_a_read_only_root_and_no_privilege() -> None:
    for service in programs().values():
        assert service["read_only"]
        assert (service["user"], service["cap_drop"]) == ("10001:10001", ["ALL"])
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert set(service["depends_on"]) == {"etcd", "clickhouse"}
        assert int(service["stop_grace_period"].removesuffix("s")) > ServiceConfig.model_fields["stop_grace_s"].default


def test_every_volume_is_declared_and_every_part_says_whether_it_is_well() -> None:
    document = compose()
    for service in document["services"].values():
        assert service["healthcheck"]["test"]
        assert {mount.partition(":")[0] for mount in service["volumes"]} <= set(document["volumes"])


def test_the_engine_takes_the_dockerfile_where_one_answers() -> None:
    docker = shutil.which("docker")
    if (
        docker is None
        or subprocess.run([docker, "version", "-f", "{{.Server.Version}}"], capture_output=True).returncode
    ):
        pytest.skip("no container engine answers")
    checked = subprocess.run(
        [docker, "build", "--check", "-f", str(DOCKERFILE), str(ROOT)], capture_output=True, text=True, timeout=120
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
