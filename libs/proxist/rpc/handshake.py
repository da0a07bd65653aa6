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
_SIGNS_OF_A_CONNECT: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("secure read failed", "alert"),
        "It took the connection and then ended it, as a door does that demands a client certificate and got none, or "
        "one that its `tls_ca` did not sign. Give `tls_cert` and `tls_key` (PROXIST_TLS_CERT, PROXIST_TLS_KEY).",
    ),
    (
        ("socket closed",),
        "It took the connection and ended it at once, as a door that speaks TLS does with a caller that does not. Call "
        "it with TLS (grpc+tls://, https://, `tls_ca`).",
    ),
)
"""These words stand for a handshake only where no connection came to be; otherwise a peer simply went away."""
_NO_CONNECTION = "failed to connect to all addresses"


def explain(text: str) -> str | None:
    """What failed and what to change, where `text`, a transport's error, tells of a handshake; else None."""
    said = text.lower().replace("_", " ")
    signs = _SIGNS + (_SIGNS_OF_A_CONNECT if _NO_CONNECTION in said else ())
    return next((meaning for words, meaning in signs if any(word in said for word in words)), None)
