"""Keys for one run, so that nobody else on a shared machine can talk to its workers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any


def security_of(certificate: Path | str, key: Path | str) -> Any:
    """Return a `distributed.Security` in which client, scheduler and workers share one certificate and its key."""
    from distributed import Security

    parts = {
        f"tls_{role}_{name}": str(path)
        for role in ("client", "scheduler", "worker")
        for name, path in (("cert", certificate), ("key", key))
    }
    return Security(require_encryption=True, tls_ca_file=str(certificate), **parts)


@contextmanager
def temporary_keys(folder: Path) -> Iterator[Any]:
    """Yield a `distributed.Security` of new keys in files that only the user can read; they go at the end.

    Parameters
    ----------
    folder : path
        Where workers on other machines can read them.
    """
    from distributed import Security

    made = Security.temporary()
    with TemporaryDirectory(prefix=".keys-", dir=folder) as place:
        certificate, key = Path(place, "certificate.pem"), Path(place, "key.pem")
        for path, text in ((certificate, made.tls_client_cert), (key, made.tls_client_key)):
            path.touch(mode=0o600)
            path.write_text(text, encoding="ascii")
        yield security_of(certificate, key)
