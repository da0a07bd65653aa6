"""Failpoints: what they do, and that the registry and the code name the same ones."""

from __future__ import annotations

import ast
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from proxist import failpoints
from proxist.failpoints import POINTS, reach

ROOT = Path(__file__).parents[2]
POINT, OTHER = "wal.sync.before", "wal.sync.after"


def _reached_in_the_code() -> dict[str, int]:
    """How often the product's code names each point."""
    counts: dict[str, int] = {}
    for path in [*(ROOT / "libs" / "proxist").rglob("*.py"), *(ROOT / "services").rglob("*.py")]:
        text = path.read_text()
        if "reach(" not in text or path.name == "failpoints.py":
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "reach":
                assert isinstance(node.args[0], ast.Constant), f"{path}: reach takes the point's name itself"
                name = str(node.args[0].value)
                counts[name] = counts.get(name, 0) + 1
    return counts


def test_the_registry_and_the_code_name_the_same_points() -> None:
    assert set(_reached_in_the_code()) == set(POINTS)


def test_every_point_says_what_is_true_there() -> None:
    assert all(sentence.endswith(".") and len(sentence) > 20 for sentence in POINTS.values())


def test_nothing_happens_while_nothing_is_armed() -> None:
    reach(POINT)
    with failpoints.armed(f"{OTHER}=error:EIO"):
        reach(POINT)


def test_only_the_nth_time_fails_and_from_the_nth_on_where_asked() -> None:
    with failpoints.armed(f"{POINT}=error:ENOSPC@2;{OTHER}=error:EIO@2+") as points:
        failed = []
        for name in (POINT, OTHER):
            for time_number in range(1, 5):
                try:
                    reach(name)
                except OSError as error:
                    failed.append((name, time_number, error.errno))
        assert failed == [(POINT, 2, errno.ENOSPC), *((OTHER, n, errno.EIO) for n in (2, 3, 4))]
        assert points.reached(POINT) == 4
    reach(OTHER)


def test_a_paused_thread_goes_on_when_it_is_released() -> None:
    with failpoints.armed(f"{POINT}=pause") as points:
        thread = threading.Thread(target=reach, args=(POINT,))
        thread.start()
        points.wait_reached(POINT, 10.0)
        assert thread.is_alive()
        points.release(POINT)
        thread.join(10.0)
        assert not thread.is_alive()


def test_leaving_the_context_releases_what_is_paused() -> None:
    with failpoints.armed(f"{POINT}=pause") as points:
        thread = threading.Thread(target=reach, args=(POINT,))
        thread.start()
        points.wait_reached(POINT, 10.0)
    thread.join(10.0)
    assert not thread.is_alive()


def test_waiting_for_a_point_that_is_not_reached_ends() -> None:
    with failpoints.armed(f"{POINT}=delay:1") as points, pytest.raises(TimeoutError, match="0 times within"):
        points.wait_reached(POINT, 0.01)


def test_a_delay_takes_its_time() -> None:
    with failpoints.armed(f"{POINT}=delay:30"):
        began_s = time.monotonic()
        reach(POINT)
        assert time.monotonic() - began_s >= 0.03


def test_a_name_that_nobody_registered_is_an_error_where_something_is_armed() -> None:
    with failpoints.armed(f"{POINT}=delay:1"), pytest.raises(KeyError, match="add it there"):
        reach("wal.no.such.point")


@pytest.mark.parametrize(
    "spec",
    ["wal.no.such.point=kill", POINT, f"{POINT}=", f"{POINT}=kill@0", f"{POINT}=error:ENOTHING", f"{POINT}=delay:x"],
)
def test_a_spec_that_cannot_be_read_is_refused_with_what_may_stand_there(spec: str) -> None:
    with pytest.raises(ValueError, match=r"listed in|write kill"):
        failpoints.Failpoints(spec)


def _child(spec: str) -> subprocess.Popen[str]:
    code = f"from proxist import failpoints; failpoints.arm_from_environment(); failpoints.reach({POINT!r}); print('after')"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, failpoints.ENVIRONMENT: spec},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(("action", "code"), [("kill", -signal.SIGKILL), ("exit", failpoints.EXIT_CODE)])
def test_a_process_ends_where_its_environment_says(action: str, code: int) -> None:
    with _child(f"{POINT}={action}") as child:
        out, _ = child.communicate(timeout=30)
        assert (child.returncode, out) == (code, "")


def test_a_pause_that_nobody_could_end_is_refused_in_the_environment() -> None:
    with _child(f"{POINT}=pause") as child:
        _, said = child.communicate(timeout=30)
        assert child.returncode == 1
        assert "Use `stop`" in said
