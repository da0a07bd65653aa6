"""What must not be told: secrets, and where this machine keeps its files. Logs, errors on their way to a client and
`pxctl diagnostics` pass through here. It needs nothing but the standard library, for clients import it too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MASK = "***"
_CREDENTIALS = (
    (re.compile(r"\b(pxi?_[A-Za-z0-9-]{1,64})_[A-Za-z0-9_-]+"), rf"\1_{MASK}"),
    # What stands after a colon is a password up to the last @, unless it is a port.
    (
        re.compile(r"\b([a-z][a-z0-9+.-]{0,31}://[^\s/:@\"']*):(?!\d{1,5}(?:[^\w@]|$))[^\s\"]+@", re.I),
        rf"\1:{MASK}@",
    ),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----", re.S), MASK),
)
"""Tokens of ours, passwords in addresses, and private keys."""
_NAMED = re.compile(
    r"(?i)\b(authorization|bearer|password|secret|token)(['\"]?\s*[:=]\s*['\"]?(?:(?:basic|bearer)\s+)?)[^\s'\",;]+"
)
_BEARER = re.compile(r"(?i)\b(bearer\s+)[\w.~+/=-]+")
_PACKAGES = re.compile(r"(?:/[^\s/\"':]+){1,32}/(?=(?:proxist|proxist_\w+|site-packages|python3\.\d+)/)")
"""Before a file of ours or of a library, in a traceback."""
_QUOTED = re.compile(r"'[^'\n]*'|\"[^\"\n]*\"|`[^`\n]*`")


def without_credentials(text: str) -> str:
    """`text` without tokens, passwords in addresses and private keys."""
    for pattern, instead in _CREDENTIALS:
        text = pattern.sub(instead, text)
    return text


def without_quoted(text: str) -> str:
    """`text` without what stands in quotes: the values in the message of somebody else's exception."""
    return _QUOTED.sub("'…'", text)


class Scrubber:
    """Takes secrets and the directories of `hide`, of which only the name is told, out of texts."""

    def __init__(self, hide: Mapping[str, Path]) -> None:
        # The longest first: a run directory may lie in the data directory.
        found = sorted(((str(path.absolute()), name) for name, path in hide.items()), reverse=True)
        self._paths = [(path, f"<{name}>") for path, name in found if len(path) > 1]

    def outward(self, text: str) -> str:
        """For a client: without credentials and places."""
        for path, name in self._paths:
            text = text.replace(path, name)
        return without_credentials(_PACKAGES.sub("", text))

    def text(self, text: str) -> str:
        """For a log: also without values that are named authorization, bearer, password, secret or token."""
        return _BEARER.sub(rf"\1{MASK}", _NAMED.sub(rf"\1\2{MASK}", self.outward(text)))

    def value(self, value: Any, *, outward: bool = False) -> Any:
        """The same for every text in a plain JSON value; a Path becomes one."""
        if isinstance(value, str | Path):
            return self.outward(str(value)) if outward else self.text(str(value))
        if isinstance(value, Mapping):
            return {key: self.value(one, outward=outward) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(one, outward=outward) for one in value]
        return value


_own = Scrubber({})


def hide(directories: Mapping[str, Path]) -> Scrubber:
    """From now on this process does not tell where these directories are: {"data_dir": path}."""
    global _own
    _own = Scrubber(directories)
    return _own


def own() -> Scrubber:
    """The process' own; it knows no directories before `hide`."""
    return _own
