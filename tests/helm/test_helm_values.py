"""A bad value is refused with a sentence that says what to do, and the chart's settings are those of the services."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import helm_python
import pytest
import yaml
from helm_chart import CHART, VALUES, chart_schema, environment, loaded, named, render, services

from proxist.config import load

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())


def refused(values: dict[str, Any]) -> str:
    with pytest.raises(helm_python.HelmError) as caught:
        render(values)
    return str(caught.value)


def leaves(schema: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """(path, rule) of every setting that is no section."""
    section = as_section(schema)
    if section is None:
        yield path, schema
        return
    for name, part in section["properties"].items():
        if path or name != "global":
            yield from leaves(part, (*path, name))


def as_section(schema: dict[str, Any]) -> dict[str, Any] | None:
    """The object schema with named properties; None where the schema is a single setting's."""
    if "properties" in schema:
        return schema
    first = schema.get("anyOf", [{}])[0]
    return first if "properties" in first else None


def sections(schema: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    section = as_section(schema)
    if section is not None:
        yield path, section
        for name, part in section["properties"].items():
            if path or name != "global":
                yield from sections(part, (*path, name))


def put(values: dict[str, Any], path: tuple[str, ...], value: object) -> None:
    for name in path[:-1]:
        values = values.setdefault(name, {})
    values[path[-1]] = value


def test_every_setting_of_the_schema_has_a_default_and_the_other_way_round() -> None:
    def has(path: tuple[str, ...]) -> bool:
        value: Any = DEFAULTS
        for name in path:
            if not isinstance(value, dict) or name not in value:
                return False
            value = value[name]
        return True

    optional = {"ephemeral-storage", "cpu"}
    settings = {path for path, _ in leaves(SCHEMA)}
    assert {path for path in settings if not has(path) and path[-1] not in optional} == set()
    loaded().validate_schema(DEFAULTS)


def test_every_setting_refuses_a_wrong_type_with_its_own_sentence() -> None:
    wrong: dict[str, Any] = {}
    expected = []
    for path, rule in leaves(SCHEMA):
        sentence = rule["anyOf"][1]["const"]
        shown = f"`{'.'.join(path)}` must be "
        assert sentence.startswith(shown)
        assert " Set it, for example, to " in sentence
        assert rule["description"] == sentence
        put(wrong, path, 12345 if "map" in sentence or "list" in sentence else {"x": [1]})
        expected.append(sentence)
    message = refused(wrong)
    assert [
        sentence for sentence in expected if sentence.replace("'", "\\'") not in message and sentence not in message
    ] == []
    assert len(expected) > 100


def test_every_section_refuses_an_unknown_setting_and_names_the_known_ones() -> None:
    wrong: dict[str, Any] = {}
    expected = []
    for path, section in sections(SCHEMA):
        assert section["additionalProperties"] is False
        put(wrong, (*path, "bogus"), 1)
        expected.append(section["propertyNames"]["anyOf"][1]["const"])
        assert "and no other. Correct the name or remove it." in expected[-1]
    message = refused(wrong)
    assert [sentence for sentence in expected if sentence not in message] == []
    assert message.count("'bogus'") >= len(expected)


BAD = {
    "ingest.replicas": (0, "`ingest.replicas` must be a whole number from 1 to 100"),
    "query.config.log_level": ("loud", "one of debug, info, warning, error"),
    "ingest.config.stop_grace_s": (0, "a number above 0 up to 300"),
    "query.config.engines_max": (65, "a whole number from 1 up to 64"),
    "image.digest": ("latest", "empty or sha256: and 64 hex digits"),
    "tls.source": ("selfsigned", "one of generated, existingSecret, certManager, none"),
    "ingest.persistence.size": ("20 GB", "a Kubernetes quantity"),
    "etcd.replicas": (2, "one of 1, 3, 5"),
    "etcd.external.endpoints": (["https://etcd"], "an etcd endpoint as host:port"),
    "clickhouse.external.url": ("clickhouse:8123", "the URL of ClickHouse's HTTP interface"),
    "clickhouse.auth.password": ("a@b", "letters, digits, - and _"),
    "otel": ({"PATH": "/bin"}, "standard OpenTelemetry variables"),
    "ingest.env": ({"PROXIST_HOST": "x"}, "variables other than PROXIST_"),
    "ingest.resources": ({"requests": None, "limits": None}, "requests and limits"),
    "query.spread.zone": ("maybe", "one of ScheduleAnyway, DoNotSchedule, none"),
    "metrics.serviceMonitor.interval": ("15", "a time like 15s"),
    "metrics.prometheusRule.runbookBaseUrl": ("wiki/runbooks", "empty, or an http(s) address"),
    "fullnameOverride": ("9lives", "the beginning of every resource's name"),
    "networkPolicy.clients": ("all", "a list of NetworkPolicy peers"),
}


@pytest.mark.parametrize("setting", BAD)
def test_a_bad_value_fails_with_what_to_do(setting: str) -> None:
    value, sentence = BAD[setting]
    values: dict[str, Any] = {}
    put(values, tuple(setting.split(".")), value)
    message = refused(values).replace("\\'", "'")
    assert sentence in message


TOGETHER: dict[str, tuple[dict[str, Any], str]] = {
    "open doors": ({"tls": {"source": "none"}}, "accept that with `insecure: true`"),
    "insecure with TLS": ({"insecure": True}, "Set `tls.source: none`"),
    "no secret named": ({"tls": {"source": "existingSecret"}}, "Set `tls.existingSecret`"),
    "a secret too many": ({"tls": {"existingSecret": "x"}}, "Set `tls.source: existingSecret`, or remove it"),
    "certificates without TLS": (
        {"insecure": True, "tls": {"source": "none", "clients": "certificate"}},
        "nobody could show one",
    ),
    "certificates that nobody issues": ({"tls": {"clients": "certificate"}}, "whose authority keeps no key"),
    "etcd in clear": (
        {"etcd": {"bundled": False, "external": {"endpoints": ["a:2379", "b:2379"]}}},
        "`etcd.external.endpoints` are called without TLS",
    ),
    "ClickHouse in clear": (
        {"clickhouse": {"bundled": False, "external": {"url": "http://c:8123"}}},
        "`clickhouse.external.url` is called without TLS",
    ),
    "no certificate for Prometheus": (
        {
            "tls": {"source": "existingSecret", "existingSecret": "x", "clients": "certificate"},
            "metrics": {"serviceMonitor": {"enabled": True, "tokenSecret": "t"}},
        },
        "name that in `metrics.serviceMonitor.tlsSecret`",
    ),
    "a certificate for nobody": (
        {"metrics": {"serviceMonitor": {"tlsSecret": "x"}}},
        "Set `tls.clients: certificate`, or remove it",
    ),
    "an authority for nobody": ({"etcd": {"external": {"caSecret": "x"}}}, "Set `etcd.bundled: false`, or remove it"),
    "half of etcd with TLS": (
        {"etcd": {"bundled": False, "external": {"endpoints": ["https://a:2379", "b:2379"]}}},
        "before every one or before none",
    ),
    "two authorities": (
        {"clickhouse": {"bundled": False, "external": {"url": "https://c", "caSecret": "x", "systemCa": True}}},
        "both `caSecret` and `systemCa`",
    ),
    "no issuer": ({"tls": {"source": "certManager"}}, "Set `tls.certManager.issuer`"),
    "no etcd": ({"etcd": {"bundled": False}}, "Set `etcd.external.endpoints`"),
    "two etcds": ({"etcd": {"external": {"endpoints": ["e:2379"]}}}, "Set `etcd.bundled: false`, or remove them"),
    "no ClickHouse": ({"clickhouse": {"bundled": False}}, "Set `clickhouse.external.existingSecret`"),
    "two ClickHouses": (
        {"clickhouse": {"external": {"url": "http://c:8123"}}},
        "Set `clickhouse.bundled: false`, or remove it",
    ),
    "two addresses": (
        {"clickhouse": {"bundled": False, "external": {"url": "http://c:8123", "existingSecret": "c"}}},
        "Keep one of them",
    ),
    "metrics without a token": ({"metrics": {"serviceMonitor": {"enabled": True}}}, "--grant operator` and the"),
}


@pytest.mark.parametrize("case", TOGETHER)
def test_values_that_do_not_go_together_fail_with_what_to_do(case: str) -> None:
    values, sentence = TOGETHER[case]
    assert sentence in refused(values)


def test_an_insecure_cluster_may_have_stores_in_clear() -> None:
    assert render(
        {
            "insecure": True,
            "tls": {"source": "none"},
            "etcd": {"bundled": False, "external": {"endpoints": ["e:2379"]}},
            "clickhouse": {"bundled": False, "external": {"url": "http://c:8123"}},
        }
    )


def test_all_that_is_wrong_is_said_at_once() -> None:
    message = refused({"tls": {"source": "none"}, "etcd": {"bundled": False}})
    assert "insecure" in message
    assert "etcd.external.endpoints" in message


# ---- the services' settings ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", chart_schema.SERVICES)
def test_the_chart_has_exactly_the_settings_of_a_service(role: str) -> None:
    fields = chart_schema.SERVICES[role].model_fields
    offered = set(SCHEMA["properties"][role]["properties"]["config"]["properties"])
    assert offered == set(chart_schema.settings(chart_schema.SERVICES[role]))
    assert set(DEFAULTS[role]["config"]) == offered
    assert offered | {name for name in fields if chart_schema.is_managed(name)} == set(fields)


DELIBERATE = {"stop_grace_s"}
"""A cluster has more to finish than a laptop."""


@pytest.mark.parametrize("role", chart_schema.SERVICES)
def test_defaults_are_those_of_the_service(role: str) -> None:
    fields = chart_schema.SERVICES[role].model_fields
    for name, value in DEFAULTS[role]["config"].items():
        if name not in DELIBERATE:
            assert value == fields[name].default, name


@pytest.mark.parametrize("case", VALUES)
def test_every_service_takes_the_config_that_the_chart_gives_it(case: str) -> None:
    found = render(VALUES[case])
    seen = set()
    for owner, role, _, container in services(found):
        file = yaml.safe_load(named(found, "ConfigMap", role)["data"]["config.yaml"])
        variables = {
            k: v for k, v in environment(container).items() if k.startswith("PROXIST_") and k != "PROXIST_CONFIG"
        }
        config = load(chart_schema.SERVICES[role], env=variables, defaults=file)
        assert config.name.startswith("rel-pod-0"), owner
        assert config.advertise_host
        insecure = VALUES[case].get("insecure", False)
        assert (config.insecure, config.tls_cert is None, config.auth == "off") == (insecure, insecure, insecure), owner
        assert config.tls_clients == VALUES[case].get("tls", {}).get("clients", "token")
        assert all(endpoint.startswith("https://") != insecure for endpoint in config.etcd_endpoints), owner
        assert config.run_dir.is_relative_to("/run/proxist")
        seen.add(role)
    assert seen == set(chart_schema.SERVICES)


def test_stores_of_others_may_have_authorities_of_their_own() -> None:
    def authorities(case: str) -> tuple[str | None, str | None]:
        file = yaml.safe_load(named(render(VALUES[case]), "ConfigMap", "persister")["data"]["config.yaml"])
        return file.get("etcd_ca"), file.get("clickhouse_ca")

    assert authorities("minimal") == (None, None)  # both are of the release's own
    assert authorities("external-stores") == ("/etc/proxist/etcd-ca/ca.crt", "system")
    assert authorities("production") == (None, "/etc/proxist/clickhouse-ca/ca.crt")


def test_a_setting_of_values_reaches_the_service() -> None:
    values = copy.deepcopy(VALUES["insecure-dev"])
    values["query"]["config"] = {"query_s_max": 17.5, "log_level": "debug"}
    found = render(values)
    file = yaml.safe_load(named(found, "ConfigMap", "query")["data"]["config.yaml"])
    config = load(chart_schema.SERVICES["query"], env={}, defaults={**file, "name": "q"})
    assert (config.query_s_max, config.log_level) == (17.5, "debug")  # type: ignore[attr-defined]


@pytest.mark.parametrize("role", chart_schema.SERVICES)
def test_the_services_have_the_tls_settings_that_the_chart_gives(role: str) -> None:
    given = {
        name.removeprefix("PROXIST_").lower()
        for _, of_role, _, container in services(render({}))
        if of_role == role
        for name in environment(container)
        if name.startswith("PROXIST_TLS_")
    }
    assert given == {"tls_cert", "tls_key", "tls_ca"}
    assert given <= set(chart_schema.SERVICES[role].model_fields)
