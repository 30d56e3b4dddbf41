"""A file system that stands for one behind a URL: ``elsewhere://`` is a folder, but nothing in xland knows it."""

from __future__ import annotations

from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem


class Elsewhere(LocalFileSystem):
    """Files of this machine, under a scheme that is not that of files."""

    protocol = "elsewhere"
    local_file = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "auto_mkdir": True})

    @classmethod
    def _strip_protocol(cls, path: Any) -> str:
        return str(super()._strip_protocol(str(path).removeprefix("elsewhere://")))


fsspec.register_implementation("elsewhere", Elsewhere, clobber=True)
