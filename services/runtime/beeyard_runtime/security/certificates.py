"""A private authority for a lab, and the certificates that it signs.

Keys are on the curve P-256, which everything that speaks TLS knows. A certificate is good for its hosts, as a server
and as a client, and always for loopback, which is this machine whoever shows it. What a pool or worker is, stands in
it as a URI, so that a link whose other side shows a certificate needs no token.
"""

import datetime as dt
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

SCHEME: Final = "beeyard"
AUTHORITY_DAYS: Final = 3_650
#: What browsers take at most.
CERT_DAYS: Final = 397
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
#: Two machines' clocks may differ by so much.
_BACKDATED: Final = dt.timedelta(minutes=5)
_COMMON_NAME_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and its key, both as PEM; `ends` is the day of its end."""

    cert: bytes
    key: bytes
    ends: dt.datetime


@dataclass(frozen=True, slots=True)
class PeerName:
    """What a certificate says of a process of the fleet; `worker_id` is empty for a pool manager."""

    pool_id: str
    worker_id: str = ""

    @property
    def uri(self) -> str:
        """How it stands in a certificate."""
        pool = f"{SCHEME}://pool/{quote(self.pool_id, safe='')}"
        return f"{pool}/worker/{quote(self.worker_id, safe='')}" if self.worker_id else pool


def peer_name_of(uri: str) -> PeerName | None:
    """Return what a URI out of a certificate says; None for one that is not ours."""
    parts = urlsplit(uri)
    path = parts.path.split("/")
    if parts.scheme != SCHEME or parts.netloc != "pool" or not all(path[1:]):
        return None
    match path:
        case ["", pool_id]:
            return PeerName(unquote(pool_id))
        case ["", pool_id, "worker", worker_id]:
            return PeerName(unquote(pool_id), unquote(worker_id))
        case _:
            return None


def make_authority(name: str, *, days: int, now: dt.datetime) -> Issued:
    """Return a new authority that signs certificates for `days` days."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _named(name)
    ends = now + dt.timedelta(days=days)
    usage = _usage(key_cert_sign=True, crl_sign=True)
    builder = (
        _builder(subject, subject, key.public_key(), now, ends)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
    )
    return Issued(_pem(builder.sign(key, hashes.SHA256())), _key_pem(key), ends)


def issue(
    authority: tuple[bytes, bytes],
    name: str,
    *,
    hosts: Sequence[str] = (),
    peer: PeerName | None = None,
    days: int,
    now: dt.datetime,
) -> Issued:
    """Return a certificate that an authority signs.

    Args:
        authority: Its certificate and key, as PEM.
        name: For people.
        hosts: Names and addresses under which its holder is reached.
        peer: What of the fleet its holder is; None: nothing.
        days: How long it is good; never longer than the authority.
        now: When it begins.

    Raises:
        ValueError: The authority's files are not what they should be, or a host is none.
    """
    signer = x509.load_pem_x509_certificate(authority[0])
    signer_key = serialization.load_pem_private_key(authority[1], password=None)
    if not (
        isinstance(signer_key, ec.EllipticCurvePrivateKey)
        and signer_key.public_key() == signer.public_key()
    ):
        raise ValueError(
            "ca.key is not the key of ca.pem, or is of another kind than those made here"
        )
    key = ec.generate_private_key(ec.SECP256R1())
    ends = min(now + dt.timedelta(days=days), signer.not_valid_after_utc)
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    signer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer_key.public_key())
    builder = (
        _builder(_named(name), signer.subject, key.public_key(), now, ends)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage(both), critical=False)
        .add_extension(signer_id, critical=False)
        .add_extension(x509.SubjectAlternativeName(_names(hosts, peer)), critical=False)
    )
    return Issued(_pem(builder.sign(signer_key, hashes.SHA256())), _key_pem(key), ends)


def ends_of(certificates: bytes) -> dt.datetime:
    """Return when a certificate ends; of several in the file (PEM), the one that ends first.

    Raises:
        ValueError: There is none.
    """
    return min(one.not_valid_after_utc for one in x509.load_pem_x509_certificates(certificates))


def is_authority(certificate: bytes) -> bool:
    """Whether the first certificate of a file (PEM) may sign others.

    Raises:
        ValueError: There is none.
    """
    leaf = x509.load_pem_x509_certificates(certificate)[0]
    try:
        return leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def issued_to(certificate: bytes) -> tuple[list[str], PeerName | None]:
    """Return for which hosts a certificate (PEM) is good, and what of the fleet its holder is.

    Raises:
        ValueError: It is no certificate, or one without names.
    """
    hosts, uris = names_in(x509.load_pem_x509_certificates(certificate)[0])
    if not (hosts or uris):
        raise ValueError("it has no names to renew it for")
    peers = [peer for peer in map(peer_name_of, uris) if peer is not None]
    return hosts, peers[0] if peers else None


def names_in(certificate: x509.Certificate) -> tuple[list[str], list[str]]:
    """Return for which hosts a certificate is good, and the URIs in it; none where it has no such names."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return [], []
    dns: list[str] = names.get_values_for_type(x509.DNSName)
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    uris: list[str] = names.get_values_for_type(x509.UniformResourceIdentifier)
    return [*dns, *addresses], uris


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    begins: dt.datetime,
    ends: dt.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins - _BACKDATED)
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:_COMMON_NAME_MAX])])


def _names(hosts: Sequence[str], peer: PeerName | None) -> list[x509.GeneralName]:
    every = dict.fromkeys([*hosts, *_LOOPBACK])
    names = [_host(host) for host in every]
    return [*names, x509.UniformResourceIdentifier(peer.uri)] if peer else names


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass  # then it is a name
    labels = host.removeprefix("*.").split(".")
    is_name = all(
        label.isascii() and label.replace("-", "").replace("_", "").isalnum() for label in labels
    )
    if not is_name or len(host) > 253:
        raise ValueError(f"{host!r} is neither a host name nor an address")
    return x509.DNSName(host)


def _usage(**wanted: bool) -> x509.KeyUsage:
    names = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement "
        "key_cert_sign crl_sign encipher_only decipher_only"
    )
    return x509.KeyUsage(**{name: wanted.get(name, False) for name in names.split()})


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
