"""Development certificates for tests: what a server and its clients hold, and how to replace it under them."""

from __future__ import annotations

from pathlib import Path

from proxist.cli.certs import make_dev_certs
from proxist.rpc.tls import Tls


class DevCerts:
    """An authority and what it signed, in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.make()

    def make(self) -> None:
        """Another authority, and another pair from it, in the same files."""
        make_dev_certs(self.directory)

    @property
    def ca(self) -> Path:
        return self.directory / "ca.crt"

    @property
    def server(self) -> Tls:
        """For a server that demands a certificate."""
        return Tls(self.directory / "tls.crt", self.directory / "tls.key", self.ca, "certificate")

    @property
    def client(self) -> Tls:
        """For a client that such a server lets in."""
        return Tls(self.directory / "client.crt", self.directory / "client.key", self.ca)

    @property
    def nameless(self) -> Tls:
        """For a client that trusts the authority and shows nothing."""
        return Tls(ca=self.ca)
