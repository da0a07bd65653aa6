"""`python -m proxist_query`: one query service."""

from __future__ import annotations

import proxist.rpc.env  # noqa: F401  # before anything imports pyarrow or grpc

from proxist.rpc import service
from proxist_query.config import DEFAULTS, QueryConfig
from proxist_query.node import QueryNode


def main(argv: list[str] | None = None) -> None:
    """Run until SIGTERM or a failure; never returns."""
    service.main("query", QueryConfig, QueryNode, defaults=DEFAULTS, argv=argv)


if __name__ == "__main__":
    main()
