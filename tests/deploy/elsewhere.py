"""Command lines that cannot run here, checked against what they name: the chart, the compose file, the unit, the tree."""

from __future__ import annotations

import base64
import functools
import itertools
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import typer.main
import yaml

from proxist.cli import pxctl

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "helm"))

from helm_chart import CHART, documents, loaded  # noqa: E402 (tests/helm is no package)

UNITS = {f"proxist@{role}" for role in ("*", "ingest", "query", "persister", "controlplane")}
STORES = {"etcd", "clickhouse-server"}
KINDS = {"deploy": "deployment", "sts": "statefulset", "pvc": "persistentvolumeclaim"}
RELEASE = "ticks"
SECRETS = {"proxist-auth", "proxist-clickhouse", "proxist-metrics"}
"""Made by install.md."""

Words = tuple[str, ...]


class Elsewhere:
    """`check(words, home)` raises AssertionError, naming what does not exist or is not allowed.

    `parses` says whether ClickHouse takes a statement.
    """

    def __init__(self, home: Path, parses: Callable[[str], bool]) -> None:
        self._home = home
        self._parses = parses
        self._checks: dict[str, Callable[[Words], None]] = {
            "clickhouse-client": self._clickhouse,
            "curl": self._curl,
            "docker": self._docker,
            "grpcurl": self._grpcurl,
            "helm": self._helm,
            "journalctl": self._unit_log,
            "kubectl": self._kubectl,
            "promtool": self._promtool,
            "pxctl": self._pxctl,
            "sudo": self._sudo,
            "systemctl": self._systemctl,
        }

    def check(self, words: Words) -> None:
        program, *rest = words
        assert program in self._checks, f"nobody checks {program!r}"
        self._checks[program](tuple(rest))

    def _helm(self, words: Words) -> None:
        verb, options, names = _split(words, valued={"-n", "-f", "-o", "--set", "--timeout"})
        _binary_knows("helm", (verb,), options)
        assert verb in ("get", "history", "install", "rollback", "template", "test", "upgrade"), verb
        if verb in ("install", "template", "upgrade"):
            release, chart = names
            assert (ROOT / chart).resolve() == CHART, chart
            assert self.rendered(release, options, upgrade=verb == "upgrade")
        assert RELEASE in names
        assert _of(options, "-n") == ["ticks"]

    def rendered(self, release: str, options: list[tuple[str, str]], *, upgrade: bool = False) -> list[dict[str, Any]]:
        """The chart's documents with the values of `-f` and `--set`; HelmError where a rule is broken."""
        values: dict[str, Any] = {}
        for file in _of(options, "-f"):
            values |= yaml.safe_load((self._home / file).read_text()) or {}
        for assignment in _of(options, "--set"):
            path, _, value = assignment.partition("=")
            *sections, last = path.split(".")
            at = values
            for section in sections:
                at = at.setdefault(section, {})
            at[last] = value
        files = loaded(CHART).render(
            values, name=release, namespace="ticks", is_upgrade=upgrade, is_install=not upgrade
        )
        return list(documents(text for name, text in files.items() if not name.endswith(".txt")))

    def _kubectl(self, words: Words) -> None:
        words, read = _with_input(words)
        outer = words[: words.index("--")] if "--" in words else words
        verb, options, names = _split(outer, valued={"-n", "-f", "-c", "-o", "-p", "--type"})
        depth = {"create": 2 if names and names[0] == "secret" else 1, "rollout": 1}.get(verb, 0)
        _binary_knows("kubectl", (verb, *names[:depth]), options)
        for name in names:
            if "/" in name:
                kind, _, which = name.partition("/")
                known = (KINDS.get(kind, kind), which) in self._resources() or (kind == "secret" and which in SECRETS)
                assert known, f"neither the chart nor install.md makes {name}"
        if verb == "patch":
            assert _mapping(dict(options).get("-p") or read)
        elif read is not None:
            assert read, "an empty secret"
        assert "--from-literal" not in dict(options), "`ps` shows it: let kubectl read it from its input"
        if verb == "exec":
            assert words[words.index("--") + 1] == "pxctl"
        if "-c" in dict(options):
            assert dict(options)["-c"] in {"ingest", "query", "persister", "controlplane"}

    @functools.cache  # noqa: B019 (lives as long as one test)
    def _resources(self) -> set[tuple[str, str]]:
        made = self.rendered(RELEASE, [])
        found = {(document["kind"].lower(), document["metadata"]["name"]) for document in made}
        for document in made:
            if document["kind"] == "StatefulSet":
                pod = f"{document['metadata']['name']}-0"
                claims = document["spec"].get("volumeClaimTemplates", [])
                found |= {("pod", pod), *(("persistentvolumeclaim", f"{c['metadata']['name']}-{pod}") for c in claims)}
        return found

    def _docker(self, words: Words) -> None:
        if words[0] in ("build", "push"):
            _, options, names = _split(words, valued={"-f", "-t"})
            assert all((ROOT / file).exists() for file in _of(options, "-f"))
            assert len(names) == 1
            return
        assert words[:2] == ("compose", "-f"), words
        services = yaml.safe_load((ROOT / words[2]).read_text())["services"]
        verb, _, names = _split(words[3:], valued={"--tail", "--since"})
        assert verb in ("build", "down", "exec", "logs", "ps", "restart", "up"), verb
        assert set(names[:1] if verb == "exec" else names) <= set(services), names

    def _sudo(self, words: Words) -> None:
        words = words[2:] if words[0] == "-u" else words
        program, *rest = words
        if program in self._checks:
            self.check(words)
        elif program == "install" and "-d" not in rest:
            *sources, target = _split(words, valued={"-o", "-g", "-m"})[2]
            assert target.startswith("/etc/"), target
            mine = [source for source in sources if "/" in source]
            assert all((ROOT / source).exists() for source in mine), sources
        elif program.startswith("/opt/proxist") and program.endswith("/pip"):
            extra = re.fullmatch(r"\.\[(\w+)\]", rest[-1])
            assert rest[:-1] == ["install", "-c", "constraints.txt"]
            assert extra is not None
            assert f"\n{extra[1]} = [" in (ROOT / "pyproject.toml").read_text()
        else:
            assert program in ("cp", "env", "install", "ln", "python3", "tar", "useradd"), words

    def _pxctl(self, words: Words) -> None:
        command, rest = typer.main.get_command(pxctl.app), pxctl.hoist(list(words))
        while isinstance(command, click.Group):
            command = command.commands[rest.pop(0)]
        command.make_context("pxctl", rest)

    def _systemctl(self, words: Words) -> None:
        verb, options, units = _split(words, valued=set())
        assert verb in ("daemon-reload", "enable", "reload", "restart", "start", "status", "stop"), verb
        assert set(units) <= UNITS | STORES, units
        assert {name for name, _ in options} <= {"--now"}

    def _unit_log(self, words: Words) -> None:
        _, options, _ = _split(("", *words), valued={"-u", "-o"})
        assert set(_of(options, "-u")) <= UNITS

    def _clickhouse(self, words: Words) -> None:
        *option, statement = words
        assert option in ([], ["--query"]), words
        assert not option or "IDENTIFIED" not in statement, "`ps` shows it: let the client read it from its input"
        assert self._parses(statement), statement

    def _promtool(self, words: Words) -> None:
        assert words[:2] == ("check", "rules")
        assert all((ROOT / file).exists() for file in words[2:]), words

    def _grpcurl(self, words: Words) -> None:
        tested = (ROOT / "docs" / "operations" / "grpcurl.md").read_text()
        assert f"grpcurl {' '.join(words)}\n" in tested, "not a line of grpcurl.md, whose lines are run"

    def _curl(self, words: Words) -> None:
        words, read = _with_input(words)
        _, options, names = _split(("", *words), valued={"--cacert", "--cert", "--key", "-H", "-X"})
        assert all(header == "@-" for header in _of(options, "-H")), "`ps` shows it: let curl read it from its input"
        assert read is None or read.startswith("authorization: Bearer "), read
        assert re.fullmatch(r"https?://[a-z0-9.-]+:\d+/\S*", names[-1]), names
        assert ("-sf", "") in options, "errors must not look like answers"


def _with_input(words: Words) -> tuple[Words, str | None]:
    """The words of the command line, and what a program reads that has `/dev/stdin` or `-H @-` among them."""
    reads = any(word.endswith("/dev/stdin") for word in words) or ("-H", "@-") in itertools.pairwise(words)
    return (words[:-1], words[-1]) if reads else (words, None)


def _mapping(text: str | None) -> bool:
    """Whether a patch is a mapping whose secrets' data are base64, and no token of a secret is empty."""
    found = yaml.safe_load(text or "")
    assert isinstance(found, dict), text
    for value in found.get("data", {}).values():
        assert base64.b64decode(value, validate=True), text
    assert all(found.get("stringData", {"": "-"}).values()), text
    return bool(found)


def _split(words: Words, valued: set[str]) -> tuple[str, list[tuple[str, str]], list[str]]:
    """(verb, options with their values, other words); global options may stand before the verb."""
    options: list[tuple[str, str]] = []
    names: list[str] = []
    left = iter(words)
    for word in left:
        if word.startswith("-") and word != "-":
            name, equals, value = word.partition("=")
            options.append((name, value if equals or name not in valued else next(left)))
        else:
            names.append(word)
    return names[0], options, names[1:]


def _of(options: list[tuple[str, str]], name: str) -> list[str]:
    return [value for option, value in options if option == name]


@functools.cache
def _usage(program: str, verbs: tuple[str, ...]) -> str:
    binary = shutil.which(program)
    if binary is None:
        return ""
    return subprocess.run([binary, *verbs, "--help"], capture_output=True, text=True, timeout=60).stdout


def _binary_knows(program: str, verbs: tuple[str, ...], options: list[tuple[str, str]]) -> None:
    """Where the program is on the PATH, its own help names every long option."""
    usage = _usage(program, verbs)
    unknown = [name for name, _ in options if name.startswith("--") and usage and f"{name}" not in usage]
    assert not unknown, f"{program} {' '.join(verbs)} has no {unknown}"
