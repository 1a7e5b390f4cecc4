"""Certificates of authorities that nobody knows, for servers of a test's own."""

import ssl
import subprocess
from pathlib import Path


def make_certificate(folder: Path, host: str) -> Path:
    """Make a key and a certificate for ``host``, in one file of ``folder``."""
    path = folder / f"{host}.pem"
    command = f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN={host}"
    made = [*command.split(), "-addext", f"subjectAltName=DNS:{host}", "-keyout", str(path), "-out", "-"]
    shown = subprocess.run(made, check=True, capture_output=True).stdout
    path.write_bytes(path.read_bytes() + shown)
    return path


def server_context(certificate: Path) -> ssl.SSLContext:
    """What a server with that certificate listens with."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return context
