"""Certificates of an authority of the test's own, made by the `openssl` command."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True)
class Authority:
    """A CA; `issue` makes a key pair as `NAME.pem` and `NAME-key.pem` beside it."""

    directory: Path
    name: str = "ca"

    @property
    def certificate(self) -> Path:
        return self.directory / f"{self.name}.pem"

    def create(self) -> Authority:
        _openssl("req", "-x509", *_NEW_KEY, "-days", "1", "-subj", f"/CN={self.name}",
                 "-keyout", f"{self.directory}/{self.name}-key.pem", "-out", str(self.certificate))  # fmt: skip
        return self

    def issue(self, name: str) -> tuple[Path, Path]:
        base = self.directory / name
        base.with_suffix(".ext").write_text("subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n")
        _openssl("req", *_NEW_KEY, "-subj", f"/CN={name}", "-keyout", f"{base}-key.pem", "-out", f"{base}.csr")
        _openssl("x509", "-req", "-in", f"{base}.csr", "-CA", str(self.certificate), "-CAkey",
                 f"{self.directory}/{self.name}-key.pem", "-CAcreateserial", "-days", "1", "-out", f"{base}.pem",
                 "-extfile", f"{base}.ext")  # fmt: skip
        return Path(f"{base}.pem"), Path(f"{base}-key.pem")


def _openssl(*words: str) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True)
