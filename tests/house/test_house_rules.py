"""What holds for the whole tree: layers, generated code, first lines, what must not be committed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SOURCES = [
    path
    for folder in ("libs", "services", "tests", "benchmarks", "protos")
    for path in (ROOT / folder).rglob("*.py")
    if "_pb2" not in path.name
]


def run(*command: str) -> None:
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_generated_code_is_fresh() -> None:
    run("protos/generate.py", "--check")


def test_layers_go_one_way() -> None:
    run("-c", "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())")


def test_the_engine_does_not_know_flight() -> None:
    """import-linter tells only whole packages apart, and the engine does use pyarrow."""
    engine = [path for name in ("model", "wal", "hot", "seam") for path in (ROOT / "libs/proxist" / name).rglob("*.py")]
    assert engine
    for path in engine:
        assert not re.search(r"pyarrow\.flight|from pyarrow import .*\bflight\b", path.read_text()), path


@pytest.mark.parametrize(
    "main", sorted((ROOT / "services").rglob("__main__.py")), ids=lambda path: str(path.parent.name)
)
def test_a_program_sets_grpcs_flags_before_it_loads_anything(main: Path) -> None:
    imports = re.findall(r"^(?:import|from) (?!__future__).*", main.read_text(), re.MULTILINE)
    assert imports[0].startswith("import proxist.rpc.env")


@pytest.mark.parametrize("library", ["grpc", "pyarrow.flight"])
def test_grpc_still_knows_the_flags_that_we_set(library: str) -> None:
    """A gRPC that dropped an experiment says so on stderr and ignores it: then `proxist.rpc.env` needs a new look."""
    use = {
        "grpc": "import grpc; grpc.insecure_channel('127.0.0.1:1').close()",
        "pyarrow.flight": "import pyarrow.flight as fl; fl.FlightServerBase('grpc://127.0.0.1:0').shutdown()",
    }[library]
    program = f"import os; os.environ['GRPC_VERBOSITY'] = 'ERROR'\nimport proxist.rpc.env\n{use}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "Unknown experiment" not in done.stderr


def test_no_file_is_too_long_to_read() -> None:
    too_long = {
        str(path.relative_to(ROOT)): count
        for path in SOURCES
        if not {"tests", "testing"} & set(path.parts) and (count := len(path.read_text().splitlines())) > 400
    }
    assert not too_long


def test_versions_are_pinned_and_no_index_is_named() -> None:
    pins = (ROOT / "constraints.txt").read_text().split()
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9.]+", pin) for pin in pins)
    grpc_versions = {pin.partition("==")[2] for pin in pins if pin.startswith("grpcio")}
    assert len(grpc_versions) == 1, "all grpcio* at one version"
    for name in ("pyproject.toml", "Makefile", ".ci/run"):
        assert not re.search(r"inde[x]-url|find-link[s]|https?://(?!www\.apache)", (ROOT / name).read_text()), name


def test_every_requirement_is_pinned() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    wanted = {re.match(r"[A-Za-z0-9_.-]+", item)[0] for group in groups for item in group}  # type: ignore[index]
    pinned = {pin.partition("==")[0] for pin in (ROOT / "constraints.txt").read_text().split()}

    def canonical(names: set[str]) -> set[str]:
        return {re.sub(r"[-_.]+", "-", name).lower() for name in names}

    assert canonical(wanted) - canonical(pinned) == {"proxist"}
