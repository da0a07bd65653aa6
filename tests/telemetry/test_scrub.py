"""What a log line must not have, in the forms in which libraries and callers write it."""

from __future__ import annotations

import pytest

from proxist.telemetry.scrub import Scrubber, without_credentials


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Basic canary4711==",
        "{'authorization': 'Bearer canary.4711'}",
        "sent Bearer canary.4711-x_y",
        "token=canary4711",
        "https://me:canary/4711@store:8443/x",
        "https://me:canary'4711@store:8443/x",
        "https://me:can@ary4711@store:8443",
        "-----BEGIN EC PRIVATE KEY-----\ncanary4711\n-----END EC PRIVATE KEY-----",
    ],
)
def test_a_log_line_has_no_secret_however_it_is_written(text: str) -> None:
    said = Scrubber({}).text(f"before {text} after")
    assert not any(piece in said for piece in ("canary", "4711", "ary4711"))
    assert said.startswith("before ")
    assert said.endswith(" after")


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:8123/?query=a@b does not answer",
        "grpc://node-1:8815 and ops@example.com",
        "etcd at http://127.0.0.1:2379, asked by ops@example.com",
        "Give the header authorization.",
    ],
)
def test_what_is_no_secret_is_told(text: str) -> None:
    assert without_credentials(text) == text
    assert Scrubber({}).text(text) == text
