"""What the chart's pods are allowed, how they are found, and how they end."""

from __future__ import annotations

import base64
import fnmatch
import json
import math
from typing import Any
from urllib.parse import urlsplit

import pytest
from helm_chart import NAMESPACE, RELEASE, ROLES, VALUES, environment, named, of_kind, pods, render, services

from proxist.rpc.ports import UNIX_PATH_BYTES_MAX

cases = pytest.mark.parametrize("case", VALUES)


@cases
def test_pods_meet_the_restricted_standard(case: str) -> None:
    for owner, pod in pods(render(VALUES[case])):
        assert pod["securityContext"]["runAsNonRoot"], owner
        assert pod["securityContext"]["runAsUser"] > 0, owner
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, owner
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod), owner
        assert pod["automountServiceAccountToken"] is False, owner
        for volume in pod.get("volumes", []):
            assert set(volume) - {"name"} <= {"configMap", "secret", "emptyDir"}, owner
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False, owner
            assert security["readOnlyRootFilesystem"] is True, owner
            assert security["capabilities"] == {"drop": ["ALL"]}, owner


@cases
def test_every_container_has_requests_and_a_memory_limit(case: str) -> None:
    for owner, pod in pods(render(VALUES[case])):
        for container in pod["containers"]:
            assert {"cpu", "memory"} <= set(container["resources"]["requests"]), owner
            assert "memory" in container["resources"]["limits"], owner


@cases
def test_kubernetes_sets_no_variables_that_a_service_would_refuse(case: str) -> None:
    for owner, pod in pods(render(VALUES[case])):
        assert pod["enableServiceLinks"] is False, owner


@cases
def test_every_service_is_probed_where_it_serves(case: str) -> None:
    found = render(VALUES[case])
    scheme = "HTTP" if VALUES[case].get("insecure") else "HTTPS"
    for owner, _, _, container in services(found):
        names = {port["name"] for port in container["ports"]}
        for probe, path in (("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
            get = container[probe]["httpGet"]
            assert get["path"] == path, owner
            assert get["scheme"] == scheme, owner
            assert get["port"] in names, owner


@cases
def test_pods_are_given_the_time_that_their_drain_takes(case: str) -> None:
    found = render(VALUES[case])
    for owner, role, pod, container in services(found):
        file = named(found, "ConfigMap", role)["data"]["config.yaml"]
        (grace,) = (float(line.split(": ")[1]) for line in file.splitlines() if line.startswith("stop_grace_s"))
        sleep = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert pod["terminationGracePeriodSeconds"] >= math.ceil(grace) + sleep + 5, owner


@cases
def test_every_mount_has_its_volume_and_every_secret_is_known(case: str) -> None:
    found = render(VALUES[case])
    made = {d["metadata"]["name"]: set(d.get("data", {})) for d in of_kind(found, "Secret")}
    made |= {d["spec"]["secretName"]: {"tls.crt", "tls.key", "ca.crt"} for d in of_kind(found, "Certificate")}
    given = {"proxist-tls", "proxist-auth", "proxist-clickhouse", "etcd-ca", "clickhouse-ca"}  # of the ci values
    maps = {d["metadata"]["name"] for d in of_kind(found, "ConfigMap")}
    for owner, pod in pods(found):
        claims = [
            c["metadata"]["name"]
            for d in of_kind(found, "StatefulSet")
            if d["metadata"]["name"] == owner
            for c in d["spec"]["volumeClaimTemplates"]
        ]
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        assert len(volumes) == len(pod.get("volumes", [])), owner
        for container in pod["containers"]:
            assert {m["name"] for m in container["volumeMounts"]} <= {*volumes, *claims}, owner
            for entry in container.get("env", []):
                ref = entry.get("valueFrom", {}).get("secretKeyRef")
                if ref and ref["name"] not in given:
                    assert ref["key"] in made[ref["name"]], owner
        for volume in volumes.values():
            assert volume.get("configMap", {}).get("name") in {None, *maps}, owner
            assert volume.get("secret", {}).get("secretName") in {None, *made, *given}, owner


@cases
def test_services_reach_the_ports_of_their_pods(case: str) -> None:
    found = render(VALUES[case])
    owners = of_kind(found, "Deployment", "StatefulSet")
    for service in of_kind(found, "Service"):
        chosen = service["spec"]["selector"].items()
        selected = [
            d["spec"]["template"] for d in owners if chosen <= d["spec"]["template"]["metadata"]["labels"].items()
        ]
        assert selected, service["metadata"]["name"]
        for template in selected:
            ports = {p["name"] for c in template["spec"]["containers"] for p in c["ports"]}
            assert {p["targetPort"] for p in service["spec"]["ports"]} <= ports, service["metadata"]["name"]


@cases
def test_policies_and_budgets_select_pods_and_open_their_ports(case: str) -> None:
    found = render(VALUES[case])
    templates = [d["spec"]["template"] for d in of_kind(found, "Deployment", "StatefulSet")]
    for policy in of_kind(found, "NetworkPolicy"):
        wanted = policy["spec"]["podSelector"]["matchLabels"].items()
        (opened, *_) = policy["spec"]["ingress"]
        numbers = {port["port"] for port in opened["ports"]}
        selected = [t for t in templates if wanted <= t["metadata"]["labels"].items()]
        assert selected, policy["metadata"]["name"]
        for template in selected:
            ports = {
                p["containerPort"] for c in template["spec"]["containers"] for p in c["ports"] if p["name"] != "metrics"
            }
            assert numbers == ports, policy["metadata"]["name"]
        # Every peer names somebody: an empty one would be everybody.
        assert all(peer for rule in policy["spec"]["ingress"] for peer in rule["from"])
    for budget in of_kind(found, "PodDisruptionBudget"):
        wanted = budget["spec"]["selector"]["matchLabels"].items()
        assert any(wanted <= t["metadata"]["labels"].items() for t in templates)


@cases
def test_the_certificate_has_every_name_that_a_node_is_called_by(case: str) -> None:
    values = {**VALUES[case], "insecure": False, "tls": {"source": "certManager", "certManager": {"issuer": "ca"}}}
    values.pop("metrics", None)
    found = render(values)
    (certificate,) = of_kind(found, "Certificate")
    names = certificate["spec"]["dnsNames"]

    def covered(host: str) -> bool:
        return any(fnmatch.fnmatchcase(host, name) and host.count(".") == name.count(".") for name in names)

    for _, role, _, container in services(found):
        assert covered(environment(container)["PROXIST_ADVERTISE_HOST"])
        for line in named(found, "ConfigMap", role)["data"]["config.yaml"].splitlines():
            if line.startswith("etcd: ") and f"{RELEASE}-proxist-etcd" in line:
                assert all(covered(urlsplit(e).hostname or "") for e in line.removeprefix("etcd: ").split(","))
    assert covered(f"{RELEASE}-proxist-query.{NAMESPACE}.svc.cluster.local")
    assert covered("localhost")


@cases
def test_advertised_names_belong_to_a_service_that_selects_the_pod(case: str) -> None:
    found = render(VALUES[case])
    selectors = {d["metadata"]["name"]: d["spec"] for d in of_kind(found, "Service")}
    for owner, role, pod, container in services(found):
        host, *rest = environment(container)["PROXIST_ADVERTISE_HOST"].split(".")
        if host in selectors:  # a whole Service: any of its pods will do
            assert role in ("query", "controlplane"), owner
        else:
            service = selectors[rest[0]]
            assert service["clusterIP"] == "None", owner
            assert service["publishNotReadyAddresses"], owner
            if role == "persister":
                assert (pod["hostname"], pod["subdomain"]) == (host, rest[0]), owner


def test_query_containers_share_the_owners_sockets_and_process_namespace() -> None:
    found = render(VALUES["insecure-dev"])
    (pod,) = (pod for owner, pod in pods(found) if owner.endswith("-ingest"))
    assert pod["shareProcessNamespace"] is True
    assert [c["name"] for c in pod["containers"]] == ["ingest", "query", "query1"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes["run"]["emptyDir"]["medium"] == "Memory"
    for container in pod["containers"]:
        assert {"name": "run", "mountPath": "/run/proxist"} in container["volumeMounts"]
    ports = [p["containerPort"] for c in pod["containers"] for p in c["ports"]]
    assert len(ports) == len(set(ports)) == 9
    names = [environment(c)["PROXIST_NAME"] for c in pod["containers"]]
    assert len(names) == len(set(names)) == 3


def test_the_longest_names_still_fit() -> None:
    values = {"fullnameOverride": "a" * 32, "ingest": {"attachedQueries": 4, "replicas": 100}}
    for owner, _, _, container in services(render(values)):
        name = environment(container)["PROXIST_NAME"].replace(
            f"{RELEASE}-pod-0", f"{owner}-99" if "ingest" in owner else f"{owner}-0123456789-abcde"
        )
        assert len(name) <= 63
        assert len(f"/run/proxist/shared/{name}.attach") <= UNIX_PATH_BYTES_MAX


@pytest.mark.parametrize("role", ROLES)
def test_a_changed_setting_makes_new_pods_of_its_service_alone(role: str) -> None:
    def sums(values: dict[str, Any]) -> dict[str, str]:
        owners = of_kind(render(values), "Deployment", "StatefulSet")
        return {
            d["metadata"]["name"]: json.dumps(d["spec"]["template"]["metadata"].get("annotations"), sort_keys=True)
            for d in owners
        }

    values = VALUES["external-stores"]
    before, after = sums(values), sums({**values, role: {"config": {"log_level": "debug"}}})
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {name for name in before if f"-{role}" in name}


def test_what_is_generated_makes_no_new_pods() -> None:
    from helm_chart import documents, loaded

    def templates() -> list[Any]:
        files = loaded().render({}, name=RELEASE, namespace=NAMESPACE)
        found = list(documents(text for name, text in files.items() if not name.endswith(".txt")))
        return [d["spec"]["template"] for d in of_kind(found, "Deployment", "StatefulSet")]

    assert templates() == templates()


def test_generated_secrets_are_good_enough_for_the_services() -> None:
    from proxist.auth.cluster import SECRET_CHARS_MIN
    from proxist.clickhouse.client import parse_endpoint

    found = render({})
    secret = base64.b64decode(named(found, "Secret", "auth")["data"]["cluster-secret"])
    assert len(secret) >= SECRET_CHARS_MIN
    data = named(found, "Secret", "clickhouse")["data"]
    endpoint = parse_endpoint(base64.b64decode(data["url"]).decode())
    assert endpoint.password == base64.b64decode(data["password"]).decode()
    assert len(endpoint.password) >= 32
    assert named(found, "Secret", "tls")["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
