"""`python -m proxist_controlplane`."""

import proxist.rpc.env  # noqa: F401  # before anything loads gRPC or Arrow

from proxist.rpc import service
from proxist_controlplane.config import DEFAULTS, ControlPlaneConfig
from proxist_controlplane.service import build

if __name__ == "__main__":
    service.main("controlplane", ControlPlaneConfig, build, defaults=DEFAULTS)
