"""What a transport's words say about a TLS handshake that failed: a node whose certificate is refused is not down.

The texts are those of gRPC's two builds (grpcio's with BoringSSL, pyarrow's with OpenSSL) and of Python's ssl; where one
of them changes its words, callers still get the transport's own text, as for any node that does not answer.
"""

from __future__ import annotations

REASON = "handshake"
"""`details["reason"]` of an Unavailable for this cause, so that programs can tell it from a node that is down."""

_SIGNS: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("wrong version number",),
        "That door speaks no TLS. Call it without (grpc://, http://, no `tls_ca`), or give the node `tls_cert`.",
    ),
    (
        ("certificate has expired",),
        "Its certificate has expired. Renew it; a Flight door takes the new one at a restart.",
    ),
    (
        ("is not in peer certificate", "hostname verification", "hostname mismatch", "ip address mismatch"),
        "Its certificate is for other names. Call it by one of those, or have one made for this name too.",
    ),
    (
        ("certificate purpose",),
        "Its certificate is not made for servers. Have one made for both uses, server and client authentication.",
    ),
    (
        ("verify failed",),
        "Its certificate is not of an authority that this side trusts. Give that authority's certificate as `tls_ca` "
        "(PROXIST_TLS_CA).",
    ),
)
_NO_CERTIFICATE = (
    "It took the connection and then ended it: it is stopping, or it demands a client certificate and got none that its "
    "`tls_ca` signed, or one that has ended. Then give `tls_cert` and `tls_key` (PROXIST_TLS_CERT, PROXIST_TLS_KEY)."
)
_NO_TLS = (
    "It took the connection and ended it at once: it is stopping, or it speaks TLS and this caller does not. Then call it "
    "with TLS (grpc+tls://, https://, `tls_ca`)."
)
_NO_CONNECTION = "failed to connect to all addresses"
_HUNG_UP = ("secure read failed", "socket closed", "connection reset", "alert")
"""These words stand for a handshake only where no connection came to be; otherwise a peer simply went away."""


def explain(text: str, *, secure: bool) -> str | None:
    """What failed and what to change, where `text`, a transport's error, tells of a handshake; else None. `secure`:
    whether the caller spoke TLS."""
    said = text.lower().replace("_", " ")
    known = next((meaning for words, meaning in _SIGNS if any(word in said for word in words)), None)
    if known is None and _NO_CONNECTION in said and any(word in said for word in _HUNG_UP):
        return _NO_CERTIFICATE if secure else _NO_TLS
    return known
