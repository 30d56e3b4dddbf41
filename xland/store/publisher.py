"""Who publishes maps: licence, institution, contact and DOI, set once in a file."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Annotated

from xland.errors import ConfigurationError
from xland.paths import local_path
from xland.records import Limits, check_entries, read_record, read_toml

Text = Annotated[str, Limits(most=1000)]

_DOI = re.compile(r"10\.\d{4,9}/\S+")
_LARGEST = 2**16


@dataclass(frozen=True)
class Publisher:
    """What maps, stores and catalogs say of whoever publishes them; entries that are left out are not said.

    Parameters
    ----------
    licence : str
        SPDX name or URL of the licence of the maps. Without it, they list the licences of their inputs.
    institution : str
        Name of the institution.
    contact : str
        Whom to ask: a name, an address of mail, or both.
    doi : str
        DOI of the maps, such as ``10.5281/zenodo.1234567``.
    """

    licence: Text = ""
    institution: Text = ""
    contact: Text = ""
    doi: Text = ""

    def __post_init__(self) -> None:
        check_entries(self, ConfigurationError)
        if self.doi and not _DOI.fullmatch(self.doi):
            raise ConfigurationError(f"doi {self.doi!r} is not a DOI: give it as 10.5281/zenodo.1234567, without a URL")

    @property
    def attributes(self) -> dict[str, str]:
        """Attributes of a Dataset, as CF and ACDD name them."""
        named = {"license": self.licence, "institution": self.institution, "contact": self.contact, "id": self.doi}
        return {name: text for name, text in named.items() if text} | (
            {"naming_authority": "org.doi"} if self.doi else {}
        )


def read_publisher(path: str | os.PathLike[str] | None = None) -> Publisher:
    """Read a publisher's settings, by default those of the user.

    Parameters
    ----------
    path : path, optional
        A TOML file; by default ``publisher.toml`` in the user's folder of settings for xland, ``~/.config/xland`` on
        Linux. If that does not exist, nothing is set.

    Returns
    -------
    Publisher

    Raises
    ------
    ConfigurationError
        If the file does not exist, cannot be read, or has unknown or wrong entries.
    """
    from platformdirs import user_config_path

    file = user_config_path("xland") / "publisher.toml" if path is None else local_path(path, what="a publisher's file")
    if path is None and not file.is_file():
        return Publisher()
    return read_record(Publisher, read_toml(file, _LARGEST, ConfigurationError), str(file), ConfigurationError)
