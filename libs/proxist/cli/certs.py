"""Certificates for a machine of a developer: an authority of their own, a pair for every service, one for clients.

They are made with the `cryptography` package, so no openssl program is needed. A production cluster takes its
certificates from whoever issues them there; the files have the same names and meanings.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import socket
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from proxist.errors import InvalidArgument

FILES = ("ca.crt", "ca.key", "tls.crt", "tls.key", "client.crt", "client.key")
CLOCKS_APART = datetime.timedelta(minutes=5)
"""Certificates begin this much earlier than now, for readers whose clock is behind."""

_SERVER_AND_CLIENT = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
_CLIENT = (ExtendedKeyUsageOID.CLIENT_AUTH,)


def make_dev_certs(out: Path, hosts: Sequence[str] = (), days: int = 365) -> None:
    """Write the PEM files `FILES` into `out`, over those of an earlier time; keys have mode 0600.

    `tls.crt` serves as server and as client, for localhost, 127.0.0.1, ::1, this machine's name and `hosts` (DNS names
    or IP addresses); `client.crt` as client alone. All end after `days`. Raises InvalidArgument for a host that is no
    name, for days below 1 and for a directory that cannot be written.
    """
    if days < 1:
        raise InvalidArgument(f"Certificates for {days} days would be over already. Use 1 day or more.")
    names = [_name(host) for host in dict.fromkeys(("localhost", "127.0.0.1", "::1", socket.gethostname(), *hosts))]
    ends = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    ca = _Authority(ends)
    try:
        out.mkdir(parents=True, exist_ok=True)
        _write(out, "ca", ca.key, ca.certificate)
        _write(out, "tls", *ca.issue("proxist", _SERVER_AND_CLIENT, names))
        _write(out, "client", *ca.issue("proxist client", _CLIENT))
    except OSError as error:
        raise InvalidArgument(
            f"No certificates can be written to {str(out)!r}: {error.strerror}. Name another directory."
        ) from None


def still_good(out: Path) -> bool:
    """Whether `out` has all of `FILES`, keys and certificates of one making, and these another day to go."""
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)
    try:
        ca = x509.load_pem_x509_certificate((out / "ca.crt").read_bytes())
        for stem in ("ca", "tls", "client"):
            certificate = x509.load_pem_x509_certificate((out / f"{stem}.crt").read_bytes())
            key = serialization.load_pem_private_key((out / f"{stem}.key").read_bytes(), None)
            certificate.verify_directly_issued_by(ca)
            if certificate.public_key() != key.public_key() or certificate.not_valid_after_utc <= soon:
                return False
    except (OSError, ValueError, TypeError, InvalidSignature):
        return False
    return True


class _Authority:
    """A root certificate and its key."""

    def __init__(self, ends: datetime.datetime) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self._name = _subject("proxist development CA")
        self._ends = ends
        usage = _usage(digital_signature=False, key_cert_sign=True, crl_sign=True)
        self.certificate = (
            self._begin(self._name, self.key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .sign(self.key, hashes.SHA256())
        )

    def issue(
        self, name: str, purposes: Sequence[x509.ObjectIdentifier], names: Sequence[x509.GeneralName] = ()
    ) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            self._begin(_subject(name), key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True, key_cert_sign=False, crl_sign=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return key, builder.sign(self.key, hashes.SHA256())

    def _begin(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        """With the identifiers of both keys, without which Python 3.13 and later trust no certificate."""
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(datetime.datetime.now(datetime.UTC) - CLOCKS_APART)
            .not_valid_after(self._ends)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        if not host:
            raise ValueError
        return x509.DNSName(host)
    except ValueError:
        raise InvalidArgument(f"The host {host!r} is not a DNS name in ASCII or an IP address. Name another.") from None


def _usage(*, digital_signature: bool, key_cert_sign: bool, crl_sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def write_private(path: Path, content: bytes) -> None:
    """Write the file whole or not at all, and at no moment readable for others: mode 0600."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    with open(fresh, "wb", opener=lambda name, flags: os.open(name, flags | os.O_EXCL, 0o600)) as file:
        file.write(content)
    fresh.replace(path)


def _write(out: Path, stem: str, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
    pkcs8, clear = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    write_private(out / f"{stem}.key", key.private_bytes(serialization.Encoding.PEM, pkcs8, clear))
    (out / f"{stem}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
