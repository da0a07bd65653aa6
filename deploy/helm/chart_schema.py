"""The schema of the chart's values, each rule with a sentence that says what to do.

Helm prints what a value broke ("minimum: got 0, want 1"), not a schema's description. So every rule stands in an
`anyOf` beside a `const` that holds its sentence and that nothing satisfies: Helm then prints the sentence too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from proxist.config import ServiceConfig
from proxist_controlplane.config import ControlPlaneConfig
from proxist_ingest.config import IngestConfig
from proxist_persister.config import PersisterConfig
from proxist_query.config import QueryConfig

Schema = dict[str, Any]
Part = Callable[[str], Schema]
"""A rule that knows the path it is at."""

SERVICES: Mapping[str, type[ServiceConfig]] = {
    "ingest": IngestConfig,
    "query": QueryConfig,
    "persister": PersisterConfig,
    "controlplane": ControlPlaneConfig,
}
MANAGED: tuple[str, ...] = (
    "name",
    "host",
    "advertise_host",
    "flight_port",
    "grpc_port",
    "http_port",
    "data_dir",
    "run_dir",
)
MANAGED += ("etcd", "clickhouse", "insecure")
"""Settings that the chart gives by itself."""
MANAGED_BEGINNINGS = ("tls_", "auth", "etcd_", "clickhouse_", "cluster_secret")

QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti|P|Pi)?$"
DNS_NAME = r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$"
DURATION = r"^([0-9]+(ms|s|m|h))+$"


def is_managed(setting: str) -> bool:
    """Whether the chart sets a service's setting itself, so that values cannot."""
    return setting in MANAGED or setting.startswith(MANAGED_BEGINNINGS)


def settings(config: type[ServiceConfig]) -> list[str]:
    """The settings of a service that values may give."""
    return [name for name in config.model_fields if not is_managed(name)]


def values_schema() -> Schema:
    """The whole values.schema.json."""
    root = _object(
        {
            "nameOverride": _text(
                "the name of the chart in resource names", "ticks", r"^([a-z]([-a-z0-9]{0,30}[a-z0-9])?)?$"
            ),
            "fullnameOverride": _text(
                "the beginning of every resource's name", "ticks", r"^([a-z]([-a-z0-9]{0,30}[a-z0-9])?)?$"
            ),
            "clusterDomain": _text("the DNS domain of the cluster", "cluster.local", DNS_NAME),
            "commonLabels": _map("labels for every resource"),
            "commonAnnotations": _map("annotations for every resource"),
            "image": _image(pull_secrets=True),
            "insecure": _flag("whether other machines are served without TLS and tokens"),
            "tls": _tls(),
            "auth": _object({"existingSecret": _secret("cluster-secret")}),
            "serviceAccount": _object(
                {
                    "create": _flag("whether the chart makes the service account"),
                    "name": _name("the service account"),
                    "annotations": _map("annotations of the service account"),
                }
            ),
            "networkPolicy": _object(
                {
                    "enabled": _flag("whether the chart makes NetworkPolicies"),
                    "clients": _peers("who may reach ingest and query"),
                    "operators": _peers("who may reach the control plane"),
                    "monitoring": _peers("who may read /metrics"),
                }
            ),
            "metrics": _metrics(),
            "otel": _variables(r"^OTEL_[A-Z0-9_]+$", "standard OpenTelemetry variables", "OTEL_EXPORTER_OTLP_ENDPOINT"),
            "ingest": _service("ingest", {"attachedQueries": _count(0, 4), "persistence": _persistence()}, doors=True),
            "query": _service("query", {}, doors=True),
            "persister": _service("persister", {}, doors=False, most=16),
            "controlplane": _service("controlplane", {}, doors=True, most=5),
            "etcd": _store(
                {
                    "external": _object(
                        {
                            "endpoints": _list(
                                _text(
                                    "an etcd endpoint as host:port or https://host:port",
                                    "https://etcd-0.etcd:2379",
                                    r"^(https://)?[^\s/,]+:[0-9]{1,5}$",
                                ),
                                9,
                            ),
                            "caSecret": _secret("ca.crt"),
                        }
                    ),
                    "replicas": _choice(1, 3, 5),
                }
            ),
            "clickhouse": _store(
                {
                    "external": _object(
                        {
                            "url": _text(
                                "the URL of ClickHouse's HTTP interface",
                                "https://clickhouse:8443",
                                r"^(https?://\S+)?$",
                            ),
                            "existingSecret": _secret("url"),
                            "caSecret": _secret("ca.crt"),
                            "systemCa": _flag(
                                "whether ClickHouse's certificate is of an authority that the image trusts"
                            ),
                        }
                    ),
                    "auth": _object(
                        {
                            "password": _text("a password of letters, digits, - and _", "s3cret", r"^[-A-Za-z0-9_]*$"),
                            "existingSecret": _secret("password and url"),
                        }
                    ),
                }
            ),
            "tests": _object({"enabled": _flag("whether `helm test` has something to run")}),
        }
    )("")
    root["properties"]["global"] = {"type": "object", "description": "Free, for parent charts."}
    root["propertyNames"]["anyOf"][0]["enum"].append("global")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Values of the Proxist chart",
        **root,
    }


# ---- sections ------------------------------------------------------------------------------------------------------


def _tls() -> Part:
    return _object(
        {
            "source": _choice("generated", "existingSecret", "certManager", "none"),
            "existingSecret": _secret("tls.crt, tls.key and ca.crt"),
            "clients": _choice("token", "certificate"),
            "extraNames": _list(
                _text("a DNS name for the certificate", "ticks.example.com", r"^(\*\.)?" + DNS_NAME[1:]), 50
            ),
            "days": _count(1, 36_500),
            "certManager": _object(
                {
                    "issuer": _name("the issuer"),
                    "issuerKind": _text("the issuer's kind", "ClusterIssuer", r"^[A-Z][A-Za-z]+$"),
                    "issuerGroup": _text("the issuer's API group", "cert-manager.io", DNS_NAME),
                    "duration": _text("a time like 2160h", "2160h", DURATION),
                    "renewBefore": _text("a time like 720h", "720h", DURATION),
                }
            ),
        }
    )


def _metrics() -> Part:
    return _object(
        {
            "serviceMonitor": _object(
                {
                    "enabled": _flag("whether the chart makes a ServiceMonitor"),
                    "labels": _map("labels that your Prometheus selects monitors by"),
                    "interval": _text("a time like 15s", "15s", DURATION),
                    "tokenSecret": _secret("metrics.serviceMonitor.tokenKey names"),
                    "tokenKey": _key(),
                    "tlsSecret": _secret("tls.crt and tls.key"),
                }
            ),
            "prometheusRule": _object(
                {
                    "enabled": _flag("whether the chart makes a PrometheusRule"),
                    "labels": _map("labels that your Prometheus selects rules by"),
                    "runbookBaseUrl": _text(
                        "empty, or an http(s) address without spaces",
                        "https://git.example.com/proxist/blob/main",
                        r"^(https?://[^\s\"'#{}]+)?$",
                    ),
                }
            ),
            "dashboards": _object(
                {
                    "enabled": _flag("whether the chart makes ConfigMaps with the Grafana dashboards"),
                    "labels": _map("labels that Grafana's sidecar looks for"),
                }
            ),
        }
    )


def _service(role: str, more: Mapping[str, Part], *, doors: bool, most: int = 100) -> Part:
    parts: dict[str, Part] = {"replicas": _count(1, most), **more, "config": _config(SERVICES[role])}
    parts |= {
        "resources": _resources(),
        "pdb": _object({"enabled": _flag("whether there is a PodDisruptionBudget"), "maxUnavailable": _count(1, 100)}),
        "spread": _object({domain: _choice("ScheduleAnyway", "DoNotSchedule", "none") for domain in ("zone", "host")}),
        "env": _variables(r"^[A-Za-z_][A-Za-z0-9_]*$", "variables other than PROXIST_…", "NUMBA_NUM_THREADS"),
        "podAnnotations": _map("annotations of the pods"),
        "podLabels": _map("labels of the pods"),
        **_placement(),
    }
    if doors:
        parts["service"] = _object(
            {
                "type": _choice("ClusterIP", "NodePort", "LoadBalancer"),
                "annotations": _map("annotations of the Service"),
            }
        )
    return _object(parts)


def _store(more: Mapping[str, Part]) -> Part:
    return _object(
        {
            "bundled": _flag("whether the chart runs this store itself"),
            **more,
            "image": _image(),
            "persistence": _persistence(),
            "resources": _resources(),
            **_placement(),
        }
    )


def _image(*, pull_secrets: bool = False) -> Part:
    parts: dict[str, Part] = {
        "repository": _text("an image without its tag", "registry.example.com/proxist", r"^[a-z0-9][a-z0-9._/:-]*$"),
        "tag": _text("a tag, between quotes", '"0.1.0"', r"^[A-Za-z0-9_.-]{0,128}$"),
        "digest": _text("empty or sha256: and 64 hex digits", "sha256:" + "0" * 64, r"^(sha256:[0-9a-f]{64})?$"),
        "pullPolicy": _choice("Always", "IfNotPresent", "Never"),
    }
    if pull_secrets:
        parts["pullSecrets"] = _list(_text("the name of a pull secret", "registry", DNS_NAME), 20)
    return _object(parts)


def _persistence() -> Part:
    return _object(
        {
            "size": _quantity("the size of the volume", "20Gi"),
            "storageClass": _name("the storage class"),
            "accessMode": _choice("ReadWriteOnce", "ReadWriteOncePod"),
            "annotations": _map("annotations of the claim"),
        }
    )


def _placement() -> dict[str, Part]:
    return {
        "nodeSelector": _map("labels of the nodes to run on"),
        "tolerations": _objects("Kubernetes tolerations"),
        "affinity": _free("a Kubernetes affinity"),
        "priorityClassName": _name("the priority class"),
    }


def _resources() -> Part:
    """Requests and a memory limit must be there: without them the scheduler guesses and a neighbour's growth kills."""

    def some(*required: str) -> Part:
        parts = {
            "cpu": _quantity("an amount of CPU", "500m"),
            "memory": _quantity("an amount of memory", "2Gi"),
            "ephemeral-storage": _quantity("an amount of disk", "1Gi"),
        }
        return _object(parts, required=required)

    return _object({"requests": some("cpu", "memory"), "limits": some("memory")}, required=("requests", "limits"))


def _config(config: type[ServiceConfig]) -> Part:
    """The settings of a service, with the bounds that its class declares."""
    declared = config.model_json_schema()["properties"]

    def setting(name: str) -> Part:
        found = declared[name]
        rule = {key: value for key, value in found.items() if key not in ("title", "default", "description")}
        return lambda path: _rule(path, rule, _in_words(rule), found.get("default", "…"))

    return _object({name: setting(name) for name in settings(config)})


def _in_words(rule: Mapping[str, Any]) -> str:
    if "enum" in rule:
        return "one of " + ", ".join(str(value) for value in rule["enum"])
    kinds = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "string": "a text"}
    words = kinds.get(rule.get("type", ""), "a value")
    bounds = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "up to", "exclusiveMaximum": "below"}
    for key, preposition in bounds.items():
        if key in rule:
            words += f" {preposition} {rule[key]:g}"
    return words


# ---- rules ---------------------------------------------------------------------------------------------------------


def _rule(path: str, rule: Schema, must: str, example: object) -> Schema:
    """`rule`, described and explained: `path` must be `must`."""
    shown = json_text(example)
    sentence = f"`{path}` must be {must}. Set it, for example, to {shown}."
    return {"description": sentence, "anyOf": [rule, _never(sentence)]}


def _never(sentence: str) -> Schema:
    """Refuses every value, also the sentence itself, saying the sentence."""
    return {"const": sentence, "not": {"const": sentence}}


def json_text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def _object(parts: Mapping[str, Part], *, required: tuple[str, ...] = ()) -> Part:
    """Exactly these settings; another name is refused with the list of the known ones."""

    def at(path: str) -> Schema:
        where = f"`{path}`" if path else "The chart"
        names = list(parts)
        known = f"{where} has the settings {', '.join(names)}, and no other. Correct the name or remove it."
        made: Schema = {
            "type": "object",
            "additionalProperties": False,
            "propertyNames": {"anyOf": [{"enum": names}, _never(known)]},
            "properties": {name: part(f"{path}.{name}" if path else name) for name, part in parts.items()},
        }
        if not required:
            return made
        made["required"] = list(required)
        sentence = f"{where} needs {' and '.join(required)}. Set each of them."
        return {"description": sentence, "anyOf": [made, _never(sentence)]}

    return at


def _text(what: str, example: str, pattern: str) -> Part:
    return lambda path: _rule(path, {"type": "string", "pattern": pattern}, what, example)


def _name(what: str) -> Part:
    return lambda path: _rule(
        path, {"type": "string", "pattern": f"^({DNS_NAME[1:-1]})?$"}, f"the name of {what}, or empty", "main"
    )


def _secret(keys: str) -> Part:
    return lambda path: _rule(
        path,
        {"type": "string", "pattern": f"^({DNS_NAME[1:-1]})?$"},
        f"empty or the name of a secret with {keys}",
        "proxist",
    )


def _key() -> Part:
    return _text("a key of the secret", "token", r"^[-._A-Za-z0-9]+$")


def _quantity(what: str, example: str) -> Part:
    rule: Schema = {"anyOf": [{"type": "string", "pattern": QUANTITY}, {"type": "number", "exclusiveMinimum": 0}]}
    return lambda path: _rule(path, rule, f"{what} as a Kubernetes quantity", example)


def _count(least: int, most: int) -> Part:
    rule = {"type": "integer", "minimum": least, "maximum": most}
    return lambda path: _rule(path, rule, f"a whole number from {least} to {most}", max(least, min(3, most)))


def _flag(what: str) -> Part:
    return lambda path: _rule(path, {"type": "boolean"}, f"true or false: {what}", "true, without quotes")


def _choice(*values: object) -> Part:
    return lambda path: _rule(path, {"enum": list(values)}, f"one of {', '.join(map(str, values))}", values[0])


def _map(what: str) -> Part:
    rule = {"type": "object", "additionalProperties": {"type": "string"}}
    return lambda path: _rule(path, rule, f"a map of texts to texts: {what}", '{team: "ticks"}')


def _variables(pattern: str, what: str, example: str) -> Part:
    rule = {
        "type": "object",
        "propertyNames": {"pattern": pattern, "not": {"pattern": "^PROXIST_"}},
        "additionalProperties": {"type": ["string", "number", "boolean"]},
    }
    return lambda path: _rule(path, rule, f"a map of environment variables, {what}", f'{{{example}: "…"}}')


def _free(what: str) -> Part:
    return lambda path: _rule(path, {"type": "object"}, f"a map: {what}", "{}")


def _objects(what: str) -> Part:
    return lambda path: _rule(path, {"type": "array", "items": {"type": "object"}}, f"a list of maps: {what}", "[]")


def _peers(what: str) -> Part:
    return lambda path: _rule(
        path,
        {"type": "array", "items": {"type": "object"}},
        f"a list of NetworkPolicy peers: {what}",
        "[{podSelector: {}}]",
    )


def _list(item: Part, most: int) -> Part:
    def at(path: str) -> Schema:
        return _rule(path, {"type": "array", "maxItems": most, "items": item(f"{path}[]")}, "a list", "[]")

    return at
