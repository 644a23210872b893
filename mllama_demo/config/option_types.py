"""The types of options that are more than a number or a text, with their checks, and how a text becomes a value.

A check raises ValueError. Visitors never read its message: the sentence about a wrong value is made in loader.py.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from pydantic import AfterValidator, Field

from mllama_demo.config.passwords import USER, is_hash

_REMOTE_URL = re.compile(r"https?://[^\s/@?#]+(/[^\s?#]*)?")
_YES_NO = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def expand_home(path: str | Path) -> Path:
    """`~` and `~user` at the beginning as the home folder."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - unlike Path.expanduser it leaves an unknown ~user alone


def _without_slash(path: str) -> str:
    path = path.rstrip("/")
    if path and not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", path):
        raise ValueError("no plain path")
    return path


def _check_proxy(proxy: str) -> str:
    if proxy != "*":
        ipaddress.ip_network(proxy)  # raises ValueError; an address is a network of one
    return proxy


def _check_users(entries: list[str] | None) -> list[str] | None:
    found = [USER.match(entry) for entry in entries or ()]
    if not all(match is not None and is_hash(match[2]) for match in found):
        raise ValueError("an entry is a name, a colon and a hash")
    if len({match[1] for match in found if match}) < len(found):
        raise ValueError("a name is there twice")
    return entries


def _with_path(url: str) -> str:
    """The URL without a slash at the end; a URL without a path gets the path of the OpenAI protocol."""
    if not _REMOTE_URL.fullmatch(url):
        raise ValueError("no plain address")
    url = url.rstrip("/")
    return url if "/" in url.partition("://")[2] else url + "/v1"


_S3_FOLDER = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9!_.*'()/-]*)?")
HomePath = Annotated[Path, AfterValidator(expand_home)]


def _artifacts_place(place: str | Path) -> str | Path:
    """An address in S3 as it is, and anything else as a path."""
    if isinstance(place, str) and place.startswith("s3:"):
        if not _S3_FOLDER.fullmatch(place):
            raise ValueError("no folder in S3")
        return place
    return expand_home(place)


ArtifactsPlace = Annotated[str | Path, AfterValidator(_artifacts_place)]
Name = Annotated[str, Field(min_length=1, max_length=255)]
Host = Annotated[str, Field(pattern=r"^[^\s/@,]+$")]
Site = Annotated[str, Field(pattern=r"^https?://(\*\.)?[A-Za-z0-9.-]+(:[0-9]{1,5})?$")]
HostName = Annotated[str, Field(pattern=r"^(\*\.)?[A-Za-z0-9._\[\]:-]+$")]
# Of any scheme: the pages of desktop programs and of extensions have their own, such as app://obsidian.md.
Origin = Annotated[str, Field(pattern=r"^[a-z][a-z0-9+.-]*://[^\s/@,]+$")]
Key = Annotated[str, Field(pattern=r"^[!-+\--~]{8,200}$")]
RootPath = Annotated[str, AfterValidator(_without_slash)]
Proxy = Annotated[str, AfterValidator(_check_proxy)]
RemoteURL = Annotated[str, AfterValidator(_with_path)]
Users = Annotated[list[str] | None, AfterValidator(_check_users)]


def parse_value(name: str, kind: Any, value: Any) -> Any:
    """Converts a text from outside of YAML, and refuses what pydantic's own conversions would accept.

    Args:
        name: of the option.
        kind: the type of the option.
        value: from any source.

    Raises:
        ValueError: A yes or no in place of another value, or another value in place of a yes or no.
    """
    if isinstance(value, str):  # from the environment or the command line, or put in quotes
        value = _parse_text(name, kind, value)
    elements = value if isinstance(value, list) else [value]
    if kind is not bool and any(isinstance(element, bool) for element in elements):
        raise ValueError("YAML's `yes` would count as 1")
    if kind is bool and not isinstance(value, bool):
        raise ValueError("1 and 0 are no yes and no")
    return value


def _parse_text(name: str, kind: Any, text: str) -> Any:
    """Converts a text for a bool, a list or a mapping; pydantic converts numbers.

    Args:
        name: of the option.
        kind: the type of the option.
        text: from the environment or the command line.
    """
    if kind is bool:
        return _YES_NO.get(text.strip().lower(), text)
    if name == "on_device_sampling_config":
        return None if text.strip().lower() in ("none", "null") else json.loads(text)
    if kind is not None and list in {get_origin(part) for part in get_args(kind)}:
        return [part.strip() for part in text.split(",") if part.strip()]
    return text
