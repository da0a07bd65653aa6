"""The tree of errors and the one table of statuses fit each other."""

from __future__ import annotations

import re

import grpc
import pyarrow.flight as fl
import pytest

from proxist import errors
from proxist.rpc import status


def subclasses(root: type[errors.ProxistError]) -> set[type[errors.ProxistError]]:
    return {root}.union(*(subclasses(child) for child in root.__subclasses__()))


CLASSES = sorted(subclasses(errors.ProxistError), key=lambda cls: cls.__name__)


def test_every_class_has_a_row_of_its_own() -> None:
    assert set(status.TABLE) == set(CLASSES)


def test_every_code_names_one_class() -> None:
    assert len(errors.error_classes()) == len(CLASSES)
    for code in errors.error_classes():
        assert re.fullmatch(r"[A-Z][A-Z_]*", code)


def test_the_tree_drawn_in_the_docstring_is_the_tree() -> None:
    drawn = re.findall(r"^[ │├└─]*([A-Z]\w+)\b", errors.__doc__ or "", re.MULTILINE)
    assert {cls.__name__ for cls in CLASSES} <= set(drawn)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_status_exists(cls: type[errors.ProxistError]) -> None:
    row = status.TABLE[cls]
    assert issubclass(getattr(fl, row.flight), fl.FlightError)
    assert grpc.StatusCode[row.grpc] is not grpc.StatusCode.OK
    assert 64 <= row.exit_code <= 78, "sysexits.h"


def test_transient_errors_say_so_to_a_client_that_knows_only_statuses() -> None:
    for cls in subclasses(errors.TransientError):
        assert status.TABLE[cls].flight in ("FlightUnavailableError", "FlightTimedOutError")
        assert status.TABLE[cls].grpc in ("UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED")
