"""Who publishes maps: licence, institution, contact, DOI and others, set once in a file or in a catalog."""

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
_URL = re.compile(r"https?://\S+")
_ATTRIBUTES = {
    "licence": "license",
    "institution": "institution",
    "contact": "contact",
    "creator": "creator_name",
    "creator_email": "creator_email",
    "creator_url": "creator_url",
    "publisher": "publisher_name",
    "publisher_email": "publisher_email",
    "publisher_url": "publisher_url",
    "project": "project",
    "references": "references",
    "acknowledgement": "acknowledgement",
    "comment": "comment",
    "naming_authority": "naming_authority",
    "doi": "id",
}
"""Attributes of CF and ACDD, by the names of entries."""

PUBLISHED = tuple(_ATTRIBUTES.values())
"""Attributes that a publisher sets."""

_LARGEST = 2**16


@dataclass(frozen=True)
class Publisher:
    """What maps, stores and catalogs say of whoever publishes them; entries that are left out are not said.

    Parameters
    ----------
    licence : str
        Licence of the maps: an SPDX expression such as ``CC-BY-4.0``, or a URL. Without it, they list the licences of
        their inputs.
    institution : str
        Name of the institution.
    contact : str
        Whom to ask: a name, an address of mail, or both.
    doi : str
        DOI of the maps, such as ``10.5281/zenodo.1234567``.
    creator, creator_email, creator_url : str
        Who made them.
    publisher, publisher_email, publisher_url : str
        Who publishes them; by default the institution.
    project, references, acknowledgement, comment : str
        Project, publications to cite, thanks, and what else users should know.
    naming_authority : str
        Domain whose names the maps have, such as ``org.institute``, if they have no DOI.
    """

    licence: Text = ""
    institution: Text = ""
    contact: Text = ""
    doi: Text = ""
    creator: Text = ""
    creator_email: Text = ""
    creator_url: Text = ""
    publisher: Text = ""
    publisher_email: Text = ""
    publisher_url: Text = ""
    project: Text = ""
    references: Text = ""
    acknowledgement: Text = ""
    comment: Text = ""
    naming_authority: Text = ""

    def __post_init__(self) -> None:
        check_entries(self, ConfigurationError)
        if self.doi and not _DOI.fullmatch(self.doi):
            raise ConfigurationError(f"doi {self.doi!r} is not a DOI: give it as 10.5281/zenodo.1234567, without a URL")
        if self.licence:
            check_licence(self.licence)

    @property
    def attributes(self) -> dict[str, str]:
        """Attributes of a Dataset, as CF and ACDD name them."""
        given = {name: getattr(self, name) for name in _ATTRIBUTES}
        given["publisher"] = given["publisher"] or (self.institution if self.publisher_email else "")
        given["naming_authority"] = "org.doi" if self.doi else self.naming_authority
        return {_ATTRIBUTES[name]: text for name, text in given.items() if text}


def check_licence(licence: str) -> None:
    """Refuse a licence that is neither a URL nor an expression of SPDX identifiers; ConfigurationError names it."""
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    if _URL.fullmatch(licence):
        return
    try:
        canonicalize_license_expression(licence)
    except (InvalidLicenseExpression, ValueError):
        dashed = "-".join(licence.split())
        try:
            near = f": did you mean {canonicalize_license_expression(dashed)!r}?"
        except (InvalidLicenseExpression, ValueError):
            near = ": give one of https://spdx.org/licenses, such as CC-BY-4.0, LicenseRef-NAME, or a URL"
        raise ConfigurationError(f"licence {licence!r} is not an SPDX identifier{near}") from None


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
