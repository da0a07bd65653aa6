"""`pxctl diagnostics collect`: what helps to understand a cluster, as one archive; secrets are masked in all of it.

What does not answer is named in `errors.json`, and the rest is collected all the same.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import platform
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from proxist.auth.outgoing import header
from proxist.cli.control import ControlPlane, node_row, table_row, watermark_row
from proxist.cli.masking import mask, mask_arguments, mask_config, mask_settings
from proxist.cli.pages import opener
from proxist.errors import ProxistError, Unavailable, from_json
from proxist.pb import controlplane_pb2 as pb
from proxist.pb import ingest_pb2, ingest_pb2_grpc, persister_pb2, persister_pb2_grpc, query_pb2, query_pb2_grpc
from proxist.rpc.grpc_client import connect
from proxist.rpc.tls import own

LOG_BYTES = 1 << 20
"""Of each log, from its end."""
CALL_S = 5.0
SERVICES = ("ingest", "query", "persister", "controlplane")


def collect(control: ControlPlane, out: Path, data_dir: Path | None, configs: list[Path]) -> dict[str, Any]:
    """Write the archive `out` (mode 0600, must not exist): {"files": […], "errors": {name: why}}."""
    files: dict[str, str] = {}
    errors: dict[str, str] = {}

    def keep(name: str, read: Callable[[], Any]) -> Any:
        try:
            found = read()
        except (ProxistError, OSError, ValueError) as error:
            errors[name] = error.message if isinstance(error, ProxistError) else type(error).__name__
            return None
        files[name] = mask(found if isinstance(found, str) else json.dumps(mask_settings(found), indent=2) + "\n")
        return found

    status = control.call("Status", pb.StatusRequest())
    nodes = [node_row(node) for node in status.nodes]
    keep("status.json", lambda: {"nodes": nodes, "shards": [watermark_row(mark) for mark in status.shards]})
    keep("watermarks.json", lambda: _rows(control, "Watermarks", pb.WatermarksRequest(), "watermarks", watermark_row))
    keep("tables.json", lambda: _rows(control, "ListTables", pb.ListTablesRequest(), "tables", table_row))
    keep("versions.json", _versions)
    for node in nodes:
        if node["role"] in SERVICES:  # the stores' doors are not ours, and must not see the token
            _node(node, keep)
    for path in configs:
        keep(f"config/{path.name}", lambda path=path: mask_config(path.read_text()))  # type: ignore[misc]
    if data_dir is not None:
        _local(data_dir, keep)
    files["errors.json"] = mask(json.dumps(errors, indent=2) + "\n")
    _write(out, files)
    return {"archive": str(out), "files": sorted(files), "errors": errors}


def _node(node: dict[str, Any], keep: Callable[[str, Callable[[], Any]], Any]) -> None:
    base = f"nodes/{node['name']}"
    if node["http"]:
        keep(f"{base}/metrics.txt", lambda: page_of(f"{node['http']}/metrics"))
        keep(f"{base}/health.json", lambda: page_of(f"{node['http']}/health"))
    if node["role"] == "ingest":
        stub = ingest_pb2_grpc.IngestServiceStub
        keep(f"{base}/status.json", lambda: _ask(node["grpc"], stub, "Status", ingest_pb2.StatusRequest()))
        keep(f"{base}/logs.json", lambda: _ask(node["grpc"], stub, "ListLogs", ingest_pb2.ListLogsRequest()))
    elif node["role"] == "query":
        asked = query_pb2.StatusRequest()
        keep(f"{base}/status.json", lambda: _ask(node["grpc"], query_pb2_grpc.QueryServiceStub, "Status", asked))
    elif node["role"] == "persister":
        wanted = persister_pb2.StatusRequest()
        stubs = persister_pb2_grpc.PersisterServiceStub
        keep(f"{base}/status.json", lambda: _ask(node["grpc"], stubs, "Status", wanted))


def _local(data_dir: Path, keep: Callable[[str, Callable[[], Any]], Any]) -> None:
    """The ends of a local cluster's logs, the manifests of its snapshots, and the settings on its parts' command lines."""
    from proxist.cli.supervisor import PARTS_FILE
    from proxist.config import default_run_dir

    for log in sorted((data_dir / "logs").glob("*.log")):
        keep(f"logs/{log.name}", lambda log=log: _end_of(log))  # type: ignore[misc]
    for manifest in sorted(data_dir.glob("*/snapshots/*/*/manifest.json")):
        node, _, shard, number = manifest.parts[-5:-1]
        keep(f"snapshots/{node}/{shard}-{number}.json", lambda path=manifest: json.loads(path.read_text()))  # type: ignore[misc]
    parts = keep("config/parts.json", lambda: json.loads((default_run_dir(data_dir) / PARTS_FILE).read_text()))
    for name, part in (parts or {}).get("parts", {}).items():
        line = Path(f"/proc/{part['pid']}/cmdline")
        keep(f"config/{name}.args", lambda line=line: "\n".join(mask_arguments(line.read_text().split("\0"))))  # type: ignore[misc]


def _rows(control: ControlPlane, method: str, request: Any, field: str, row: Callable[[Any], Any]) -> list[Any]:
    return [row(message) for message in getattr(control.call(method, request), field)]


def _ask(address: str, stub: Callable[[Any], Any], method: str, request: Any) -> Any:
    from google.protobuf.json_format import MessageToDict

    channel = connect(address, timeout_s=CALL_S)
    try:
        return MessageToDict(getattr(stub(channel), method)(request), preserving_proto_field_name=True)
    finally:
        channel.close()


def page_of(url: str) -> str:
    """The text of a node's page, asked with this process' token. Raises PermissionDenied, Unauthenticated; Unavailable."""
    request = urllib.request.Request(url, headers=dict(header(None)))
    try:
        with opener(own()).open(request, timeout=CALL_S) as response:
            return str(response.read().decode())
    except urllib.error.HTTPError as error:
        with error:
            raise _refusal(error) from None
    except OSError as error:
        raise Unavailable(f"{url} does not answer ({getattr(error, 'reason', None) or error}).") from None


def _refusal(error: urllib.error.HTTPError) -> ProxistError:
    """What the door said, or that it was no door of ours."""
    try:
        return from_json(json.loads(error.read()))
    except (ValueError, KeyError, TypeError, AttributeError):
        return Unavailable(f"{error.url} answered {error.code}.")


def _versions() -> dict[str, Any]:
    packages = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": dict(sorted(packages.items())),
    }


def _end_of(file: Path) -> str:
    """Whole lines of the last LOG_BYTES: half a line could hide a secret from `mask`."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        opened.seek(max(0, size - LOG_BYTES))
        text = opened.read().decode(errors="replace")
    return text if size <= LOG_BYTES else text.partition("\n")[2]


def _write(out: Path, files: dict[str, str]) -> None:
    descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    root = out.name.removesuffix(".tar.gz")
    with os.fdopen(descriptor, "wb") as raw, tarfile.open(fileobj=raw, mode="w:gz") as archive:
        for name, text in sorted(files.items()):
            data = text.encode()
            entry = tarfile.TarInfo(f"{root}/{name}")
            entry.size, entry.mode, entry.mtime = len(data), 0o600, int(time.time())
            archive.addfile(entry, io.BytesIO(data))
