"""`python -m proxist_controlplane`."""

import proxist.rpc.env  # noqa: F401  # before anything loads gRPC or Arrow

from proxist.rpc import service
from proxist_controlplane.config import ControlPlaneConfig
from proxist_controlplane.service import build

if __name__ == "__main__":
    service.main(
        "controlplane",
        ControlPlaneConfig,
        build,
        defaults={"name": "controlplane-0", "grpc_port": 7441, "http_port": 7442},
    )
