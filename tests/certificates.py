"""Certificates for tests of TLS, made by openssl: `crt` and `key` of this machine, signed by the authority `ca.crt`."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)


def write_authority(folder: Path) -> None:
    """Make the folder, with an authority of its own; skip the test where there is no openssl."""
    if shutil.which("openssl") is None:
        pytest.skip("the command openssl, which makes certificates, is not installed")
    folder.mkdir()
    (folder / "names").write_text("subjectAltName = IP:127.0.0.1, DNS:localhost\n")
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=authority",
            "-keyout", str(folder / "ca.key"), "-out", str(folder / "ca.crt"))  # fmt: skip
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=node",
            "-keyout", str(folder / "key"), "-out", str(folder / "csr"))  # fmt: skip
    openssl("x509", "-req", "-in", str(folder / "csr"), "-days", "2", "-extfile", str(folder / "names"),
            "-CA", str(folder / "ca.crt"), "-CAkey", str(folder / "ca.key"), "-CAcreateserial",
            "-out", str(folder / "crt"))  # fmt: skip
