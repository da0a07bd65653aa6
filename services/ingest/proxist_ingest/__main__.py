"""`python -m proxist_ingest`: one ingest service."""

from __future__ import annotations

import proxist.rpc.env  # noqa: F401  # before anything imports pyarrow or grpc

from proxist.rpc import service
from proxist_ingest.config import DEFAULTS, IngestConfig
from proxist_ingest.node import IngestNode


def main(argv: list[str] | None = None) -> None:
    """Run until SIGTERM or a failure; never returns."""
    service.main("ingest", IngestConfig, IngestNode, defaults=DEFAULTS, argv=argv)


if __name__ == "__main__":
    main()
