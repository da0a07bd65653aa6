"""`python -m proxist_persister`."""

import proxist.rpc.env  # noqa: F401  # before anything loads gRPC or Arrow

from proxist.rpc import service
from proxist_persister.config import DEFAULTS, PersisterConfig
from proxist_persister.service import build

if __name__ == "__main__":
    service.main("persister", PersisterConfig, build, defaults=DEFAULTS)
