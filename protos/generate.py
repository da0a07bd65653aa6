"""Writes libs/proxist/pb from the .proto files; with --check, only says whether what is committed is stale.

usage: python protos/generate.py [--check]
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent
TARGET = ROOT.parent / "libs" / "proxist" / "pb"
INIT = '"""Generated from protos/ by `make protos`; do not edit."""\n'
# Everything lands in one flat package, so that the tree of proto packages does not have to be a tree of Python ones.
IMPORT = re.compile(r"^from (?:proxist\.\w+\.v1|etcd) import (\w+_pb2)", re.MULTILINE)


def generate() -> dict[str, str]:
    """The generated files by name."""
    sources = sorted(str(p.relative_to(ROOT)) for p in ROOT.rglob("*.proto"))
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    with tempfile.TemporaryDirectory() as out:
        flags = [f"--python_out={out}", f"--pyi_out={out}", f"--grpc_python_out={out}"]
        if protoc.main(["protoc", f"-I{ROOT}", f"-I{well_known}", *flags, *sources]):
            raise SystemExit("protoc refused the sources; its message is above.")
        files = {p.name: IMPORT.sub(r"from proxist.pb import \1", p.read_text()) for p in Path(out).rglob("*.py*")}
    return {"__init__.py": INIT, **files}


def main() -> None:
    fresh = generate()
    committed = {p.name: p.read_text() for p in TARGET.glob("*.py*")} if TARGET.is_dir() else {}
    if "--check" in sys.argv:
        if stale := sorted(name for name in fresh.keys() | committed.keys() if fresh.get(name) != committed.get(name)):
            raise SystemExit(f"Generated code is stale: {', '.join(stale)}. Run `make protos` and commit the result.")
        return
    TARGET.mkdir(exist_ok=True)
    for name in committed.keys() - fresh.keys():
        (TARGET / name).unlink()
    for name, text in fresh.items():
        (TARGET / name).write_text(text)


if __name__ == "__main__":
    main()
