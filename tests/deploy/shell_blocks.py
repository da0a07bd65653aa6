"""The `sh` blocks of a page, run by bash in the order of the page.

A block that is tagged `sh` runs here, on a local cluster: default addresses and directories become that cluster's, and
`sudo` and `systemctl restart` are stand-ins, the second of which restarts the cluster's parts. One that is tagged `sh elsewhere` needs Kubernetes, an engine for containers, or root: there every
program is a stand-in that notes its words, and after them what it is to read from its input, so that they can be
checked, and what is to run inside of a pod or a container (`exec`) runs here.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from proxist.cli.parts import DEFAULT_PORTS
from proxist.etcd.local import find_etcd
from proxist.testing.cluster import LocalCluster

ROOT = Path(__file__).resolve().parents[2]
RESTART = Path(__file__).with_name("restart_parts.py")
BIN = Path(sys.executable).parent
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.M | re.S)
TAGS = {"sh", "sh elsewhere", "yaml", "json", "text", "python"}
PAGE_S_MAX = 240.0
HARMLESS = ("base64", "cat", "grep")
"""What blocks that run elsewhere may run here as it is."""
STAND_INS = (
    *("clickhouse-client", "curl", "docker", "grpcurl", "helm", "journalctl"),
    *("kubectl", "promtool", "sudo", "systemctl"),
)
CHART_SECRET = "o" * 64
"""The cluster's secret as the chart makes it, without a line end: what `kubectl get` answers here."""
NOTING = """#!/bin/sh
case "${0##*/} $*" in
    "clickhouse-client " | *"/dev/stdin"* | *" -H @- "*) set -- "$@" "$(cat)" ;;
    *"jsonpath={.data.cluster-secret}"*) printf %s "$CHART_SECRET" | base64 -w0 ;;
esac
inside() { exec /usr/bin/env PATH="$HERE" PROXIST_TOKEN= PROXIST_CLUSTER_SECRET_FILE="$SECRET" "$@"; }
{ printf '%s\\0' "$BLOCK" "${0##*/}" "$@"; printf '\\036'; } >>"$NOTED"
case "${0##*/} $*" in
    kubectl*" exec "*) while [ "$1" != -- ]; do shift; done; shift; inside "$@" ;;
    docker*" exec "*) while [ "$1" != exec ]; do shift; done; shift 2; inside "$@" ;;
esac
"""


@dataclass(frozen=True)
class Block:
    """One fenced block; `line` is that of its first line of text."""

    page: str
    line: int
    tag: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Noted:
    """A command line of a block that runs elsewhere."""

    place: str
    words: tuple[str, ...]


def blocks(page: Path) -> list[Block]:
    """Every fenced block of the page; AssertionError for a tag that nobody runs or reads."""
    text, name = page.read_text(), str(page.relative_to(ROOT))
    found = [Block(name, text[: m.start(2)].count("\n") + 1, m[1], m[2]) for m in FENCE.finditer(text)]
    unknown = [f"{block.place}: {block.tag!r}" for block in found if block.tag not in TAGS]
    assert not unknown, f"tags are {sorted(TAGS)}: {unknown}"
    return [block for block in found if block.tag.startswith("sh")]


class Shell:
    """Runs pages in `home`, a directory in which the repository's `deploy` and `docs` stand too."""

    def __init__(self, home: Path, cluster: LocalCluster) -> None:
        self.home = home
        self._cluster = cluster
        self._ran: set[str] = set()
        for name in ("deploy", "docs", "constraints.txt"):
            (home / name).symlink_to(ROOT / name)
        here, there = home / "programs-here", home / "programs-elsewhere"
        here.mkdir()
        there.mkdir()
        _program(here / "sudo", '#!/bin/sh\nexec "$@"\n')
        _program(here / "systemctl", f'#!/bin/sh\nexec {sys.executable} -S {RESTART} {cluster.run_dir} "$@"\n')
        for name in STAND_INS:
            _program(there / name, NOTING)
        for name in HARMLESS:
            (there / name).symlink_to(shutil.which(name) or "/nowhere")
        self._here = os.pathsep.join([str(here), str(Path(find_etcd()).parent), str(BIN), os.environ["PATH"]])
        self._elsewhere = str(there)

    def run(self, page: Path, *, again: bool = True) -> list[Noted]:
        """Run the page from top to bottom, in one shell; what its blocks do elsewhere.

        Without `again` lines are left out that a page before has run here. Raises AssertionError with the block and the
        output where a command fails.
        """
        noted = self.home / f"{page.stem}.noted"
        noted.write_text("")
        lines = ["set -euo pipefail"]
        for block in blocks(page):
            path, text = (self._here, self._local(block.text)) if block.tag == "sh" else (self._elsewhere, block.text)
            kept = [line for line in text.splitlines() if again or line not in self._ran]
            lines += [f"export BLOCK={block.place} PATH={path}", 'echo "--- $BLOCK"', *kept]
            self._ran |= set(kept) if block.tag == "sh" else set()
        done = subprocess.run(
            ["/bin/bash", "-c", "\n".join(lines)],
            cwd=self.home,
            env=self._environment(noted),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PAGE_S_MAX,
        )
        assert done.returncode == 0, (
            f"exit code {done.returncode}; the last command of this output failed:\n{done.stdout}"
        )
        print(done.stdout)
        entries = [entry.split("\0")[:-1] for entry in noted.read_text().split("\036")[:-1]]
        return [Noted(place, tuple(words)) for place, *words in entries]

    def _environment(self, noted: Path) -> dict[str, str]:
        return {
            **os.environ,
            "PROXIST_CONTROLPLANE": self._cluster.endpoints["controlplane"]["grpc"],
            "PROXIST_TOKEN": os.environ.get("PROXIST_TOKEN", ""),
            "HERE": self._here,
            "SECRET": str(self._cluster.data_dir / "tls" / "cluster.secret") if self._cluster.tls else "",
            "NOTED": str(noted),
            "CHART_SECRET": CHART_SECRET,
        }

    def _local(self, text: str) -> str:
        """`text` with the addresses and directories of this cluster."""
        for (role, door), port in DEFAULT_PORTS.items():
            if door != "peer":
                text = re.sub(rf"\b127\.0\.0\.1:{port}\b", self._address(role, door), text)
        kept = self._cluster.data_dir
        for theirs, ours in (
            ("/var/lib/proxist/ingest", kept / "ingest-0"),
            ("/etc/proxist/tls", kept / "tls"),
            ("/etc/proxist/cluster.secret", kept / "tls" / "cluster.secret"),
        ):
            text = text.replace(theirs, str(ours))
        return text

    def _address(self, role: str, door: str) -> str:
        found = self._cluster.endpoints[role]
        found = found[0] if isinstance(found, list) else found
        found = found[door] if isinstance(found, dict) else found
        return str(found).rpartition("/")[2]


def _program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)
