"""How the command line asks HTTP pages of a cluster's parts."""

from __future__ import annotations

from urllib.request import HTTPSHandler, OpenerDirector, ProxyHandler, build_opener

from proxist.rpc.tls import Tls


def opener(tls: Tls | None) -> OpenerDirector:
    """Opens http:// and https:// addresses, past a proxy of the environment, which would read tokens and need not reach
    the cluster. `tls`: what is shown and trusted. Raises ConfigError where its files cannot be used.
    """
    shown = () if tls is None else (HTTPSHandler(context=tls.http_client()),)
    return build_opener(ProxyHandler({}), *shown)
