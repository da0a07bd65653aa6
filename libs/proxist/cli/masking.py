"""Secrets taken out of what leaves a cluster in an archive: by the setting's name where there are settings, by pattern
in every text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from proxist.telemetry.scrub import MASK, without_credentials

_SECRET = re.compile(
    r"(?i)(pass(word|wd|phrase)?|secret(_?key)?|token|credentials?|authorization|(private|api|access|signing)[_-]?key)$"
)
"""How the name of a setting ends whose value is secret. One that names a file (`cluster_secret_file`, `tls_key`) is not."""
_ADDRESSES = ("clickhouse", "etcd")
_USERINFO = re.compile(r"(://[^/@:]*):.*@")
_TEXTS = (
    (re.compile(r"(authorization\W{1,4}(?:bearer|basic)\s+)[^\s\"']+", re.I), rf"\1{MASK}"),
    (re.compile(r"(--[a-z-]*(?:password|secret|token)[=\s])[^\n]+", re.I), rf"\1{MASK}"),
    # Quoted: to the quote's end. Bare: to the end of the line, or of the JSON string that it stands in.
    (re.compile(r"((?:password|secret|token)[\"']?\s*[:=]\s*)\"(?:\\.|[^\"\\])*\"", re.I), rf'\1"{MASK}"'),
    (
        re.compile(r"((?:password|secret|token)(?:\\?[\"'])?[ \t]*[:=][ \t]*)(?!\")(?:\\.|[^\"\\\n])+", re.I),
        rf"\1{MASK}",
    ),
)


def mask(text: str) -> str:
    """`text` without passwords in addresses, tokens, private keys, and what follows the words password, secret, token."""
    text = without_credentials(text)
    for pattern, instead in _TEXTS:
        text = pattern.sub(instead, text)
    return text


def mask_settings(value: Any) -> Any:
    """A plain value (JSON, YAML) with each secret setting masked whole, whatever it is made of. `{"name": …, "value": …}`
    is a setting too, as in a pod's environment."""
    if isinstance(value, Mapping):
        named = value.get("name")
        if isinstance(named, str) and "value" in value:
            value = {**value, "value": _setting(named, value["value"])}
        return {name: _setting(str(name), one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [mask_settings(one) for one in value]
    return value


def mask_config(text: str) -> str:
    """A config file (YAML or JSON): its settings by name, then all of it by pattern; comments are not kept. What is
    neither YAML nor JSON goes by pattern alone."""
    try:
        documents = list(yaml.safe_load_all(text))
    except yaml.YAMLError:
        return mask(text)
    return mask(yaml.safe_dump_all([mask_settings(one) for one in documents], sort_keys=False, allow_unicode=True))


def mask_arguments(arguments: Sequence[str]) -> list[str]:
    """A command line, `--flag value` and `--flag=value`, by the flags' names."""
    shown: list[str] = []
    flag = ""
    for word in arguments:
        name, equals, value = word.partition("=") if word.startswith("--") else (flag, "", word)
        key = name.removeprefix("--").replace("-", "_")
        if word.startswith("--"):
            shown.append(f"{name}={_setting(key, value)}" if equals else word)
        else:
            shown.append(str(_setting(key, value)))
        flag = word if word.startswith("--") and not equals else ""
    return [mask(word) for word in shown]


def _setting(name: str, value: Any) -> Any:
    """The value of the setting `name`, or of a variable (`PROXIST_TOKEN`) or key (`clickhouse-password`) called so."""
    if value is None or value == "" or isinstance(value, bool):
        return value
    if _SECRET.search(name):
        return MASK
    if isinstance(value, str) and name.lower().endswith(_ADDRESSES):
        return _USERINFO.sub(rf"\1:{MASK}@", value)
    return mask_settings(value)
