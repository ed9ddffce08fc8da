"""Certificates for the tests: an authority that signs whatever a test wants, and says whom it has revoked."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DAY = datetime.timedelta(days=1)


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


@dataclass
class Files:
    """PEM files of a certificate and its key."""

    cert: Path
    key: Path

    @property
    def tls(self) -> str:
        """For the `tls` block of a nats-server."""
        return f'cert_file: "{self.cert}", key_file: "{self.key}"'


@dataclass
class Authority:
    """Signs certificates; ``folder/ca.pem`` is its own."""

    folder: Path
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    cert: x509.Certificate = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        builder = self._builder(name("test authority"), self.key, (-DAY, DAY))
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.cert = builder.sign(self.key, hashes.SHA256())
        self.pem.write_bytes(self.cert.public_bytes(serialization.Encoding.PEM))

    @property
    def pem(self) -> Path:
        return self.folder / "ca.pem"

    def _builder(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        valid: tuple[datetime.timedelta, datetime.timedelta],
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.timezone.utc)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(name("test authority"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + valid[0])
            .not_valid_after(now + valid[1])
        )

    def issue(
        self,
        who: str = "server",
        hosts: tuple[str, ...] = ("127.0.0.1", "::1", "localhost"),
        valid: tuple[datetime.timedelta, datetime.timedelta] = (-DAY, DAY),
        ocsp_url: str | None = None,
    ) -> Files:
        key = ec.generate_private_key(ec.SECP256R1())
        usage = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = (
            self._builder(name(who), key, valid)
            .add_extension(x509.SubjectAlternativeName([alternative(host) for host in hosts]), critical=False)
            .add_extension(x509.ExtendedKeyUsage(usage), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        )
        if ocsp_url is not None:
            access = x509.AccessDescription(
                AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier(ocsp_url)
            )
            builder = builder.add_extension(x509.AuthorityInformationAccess([access]), critical=False)
        cert = builder.sign(self.key, hashes.SHA256())
        files = Files(self.folder / f"{who}.pem", self.folder / f"{who}.key")
        files.cert.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
        files.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return files


class Responder:
    """An OCSP responder that calls every certificate of an authority revoked."""

    def __init__(self, authority: Authority) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                size = int(self.headers["Content-Length"])
                self.answer(ocsp.load_der_ocsp_request(self.rfile.read(size)))

            def do_GET(self) -> None:
                import base64
                import urllib.parse

                encoded = urllib.parse.unquote(self.path.lstrip("/"))
                self.answer(ocsp.load_der_ocsp_request(base64.b64decode(encoded)))

            def answer(self, request: ocsp.OCSPRequest) -> None:
                now = datetime.datetime.now(datetime.timezone.utc)
                response = (
                    ocsp.OCSPResponseBuilder()
                    .add_response_by_hash(
                        request.issuer_name_hash,
                        request.issuer_key_hash,
                        request.serial_number,
                        request.hash_algorithm,
                        cert_status=ocsp.OCSPCertStatus.REVOKED,
                        this_update=now - DAY,
                        next_update=now + DAY,
                        revocation_time=now - DAY,
                        revocation_reason=None,
                    )
                    .responder_id(ocsp.OCSPResponderEncoding.HASH, authority.cert)
                    .sign(authority.key, hashes.SHA256())
                )
                body = response.public_bytes(serialization.Encoding.DER)
                self.send_response(200)
                self.send_header("Content-Type", "application/ocsp-response")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.http = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, daemon=True)

    def __enter__(self) -> Responder:  # noqa: PYI034
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


def tls(files: Files, *more: str) -> str:
    return f"tls {{ {', '.join([files.tls, *more])} }}"


def mutual(authority: Authority) -> str:
    """The server wants a certificate too."""
    return f'ca_file: "{authority.pem}", verify: true'


def trusting(authority: Authority, own: Files | None = None) -> dict[str, Any]:
    """For the tests' own client."""
    context = ssl.create_default_context(cafile=authority.pem)
    if own:
        context.load_cert_chain(own.cert, own.key)
    return {"tls": context}


def identity(files: Files) -> dict[str, str]:
    return {"tls_cert": str(files.cert), "tls_key": str(files.key)}


#: What the server is like, what our options are, and what is said.
FAILURES: dict[str, tuple[Callable[[Authority, Authority], str], Callable[..., dict[str, str]], str]] = {
    "unknown authority": (
        lambda _, stranger: tls(stranger.issue()),
        lambda *_: {},
        "nobody whom we trust has signed the server's certificate (tls_ca)",
    ),
    "wrong host name": (
        lambda ca, _: tls(ca.issue(hosts=("a.example", "b.example"))),
        lambda *_: {},
        "the server's certificate is for .*a.example.*, not for 127.0.0.1 (tls_hostname)",
    ),
    "expired": (
        lambda ca, _: tls(ca.issue(valid=(-2 * DAY, -DAY))),
        lambda *_: {},
        "the server's certificate has expired",
    ),
    "not yet valid": (
        lambda ca, _: tls(ca.issue(valid=(DAY, 2 * DAY))),
        lambda *_: {},
        "the server's certificate is not valid yet",
    ),
    "client certificate missing": (
        lambda ca, _: tls(ca.issue(), mutual(ca)),
        lambda *_: {},
        "the server asks for a client certificate: .* (tls_cert, tls_key)",
    ),
    "client certificate of somebody else": (
        lambda ca, _: tls(ca.issue(), mutual(ca)),
        lambda _, stranger: identity(stranger.issue("me")),
        "the server refuses our client certificate: .* (tls_cert)",
    ),
    "client certificate expired": (
        lambda ca, _: tls(ca.issue(), mutual(ca)),
        lambda ca, _: identity(ca.issue("me", valid=(-2 * DAY, -DAY))),
        "the server refuses our client certificate: .* (tls_cert)",
    ),
    "no TLS there": (lambda *_: "", lambda *_: {}, "the server does not offer TLS there"),
}
