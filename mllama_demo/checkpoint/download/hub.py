"""What the hub says about a repository: its commit and its files. And what it says when it refuses, as a sentence.

huggingface_hub is imported by the functions, not by the module.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any, Protocol, cast

import requests

from mllama_demo import __version__
from mllama_demo.errors import DownloadError

# Of the files at the top of the repository. Folders hold other forms of the same weights, such as Meta's in original/.
NEEDED = ("*.json", "*.jinja", "*.safetensors", "LICENSE*", "USE_POLICY*", "NOTICE*")
WEIGHTS = "*.safetensors"
EXAMPLE = "meta-llama/Llama-3.2-11B-Vision-Instruct"


class Digest(Protocol):
    """The part of a hashlib object that is used."""

    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository.

    Attributes:
        bytes: its size.
        digest: the SHA-256 of its content (64 digits), or git's SHA-1 of a small file (40 digits). Also its name among the blobs
            of the cache.
    """

    name: str
    bytes: int
    digest: str

    def new_digest(self) -> Digest:
        """Computes `digest` from the content."""
        if len(self.digest) == 64:
            return hashlib.sha256()
        return hashlib.sha1(f"blob {self.bytes}\0".encode(), usedforsecurity=False)


@dataclass(frozen=True)
class Repository:
    """A repository at one commit.

    Attributes:
        revision: the branch, tag or commit that was asked for.
        files: the needed files, the smallest first.
        endpoint: the address of the hub.
        headers: those of every request to the hub, the token among them.
    """

    name: str
    revision: str
    commit: str
    files: tuple[RemoteFile, ...]
    endpoint: str
    headers: Mapping[str, str]

    def __repr__(self) -> str:
        return f"{self.name}@{self.commit}"  # no headers, because they hold the token


def look_up(name: str, revision: str) -> Repository:
    """Asks the hub for the commit of a revision and for the files of this commit.

    Raises:
        DownloadError: the hub cannot be reached, refuses, or the repository has no weights that can be used.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
    from huggingface_hub.utils import build_hf_headers, get_session

    # The errors of its HTTP library when nobody answers: requests' are OSErrors; httpx' have a base class of HfHubHTTPError.
    unreached = cast(tuple[type[Exception], ...], (OSError, *HfHubHTTPError.__bases__))
    endpoint = constants.ENDPOINT
    headers = build_hf_headers(library_name="mllama-demo", library_version=__version__)
    if not headers.get("authorization", "").isascii():
        raise DownloadError(f"Your token has characters that no token has; {_LOGIN}.")
    session = cast(Any, get_session())
    if isinstance(session, requests.Session):  # of huggingface_hub before 1.0, which would prefer a password in ~/.netrc
        session.auth = _as_it_is
    try:
        info = HfApi(endpoint=endpoint, headers=headers).model_info(name, revision=revision, files_metadata=True, timeout=30)
    except HFValidationError:
        raise DownloadError(f"{name!r} is no repository id; it is written like {EXAMPLE}.") from None
    except OfflineModeIsEnabled:
        raise DownloadError("HF_HUB_OFFLINE is set, which forbids every download; unset it and run the command again.") from None
    except HfHubHTTPError as error:
        asked = Repository(name, revision, "", (), endpoint, headers)
        raise refusal(asked, error.response.status_code, error.response.headers) from None
    except unreached:
        raise DownloadError(unreachable(endpoint)) from None
    return Repository(name, revision, str(info.sha), _needed(name, info.siblings or []), endpoint, headers)


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _needed(name: str, siblings: list[Any]) -> tuple[RemoteFile, ...]:
    wanted = [s for s in siblings if "/" not in s.rfilename and any(fnmatch(s.rfilename, pattern) for pattern in NEEDED)]
    names = {s.rfilename for s in wanted}
    if "config.json" not in names or not any(fnmatch(n, WEIGHTS) for n in names):
        raise DownloadError(
            f"{name} has no config.json with *.safetensors beside it, so that it is no checkpoint in the Hugging Face layout; "
            f"{EXAMPLE} is one."
        )
    files = []
    for sibling in wanted:
        size = sibling.lfs.size if sibling.lfs else sibling.size
        digest = sibling.lfs.sha256 if sibling.lfs else sibling.blob_id
        if size is None or digest is None:
            raise DownloadError(f"The server of {name} does not tell the sizes of its files; unset HF_ENDPOINT.")
        files.append(RemoteFile(sibling.rfilename, size, digest))
    return tuple(sorted(files, key=lambda file: (file.bytes, file.name)))


# --- refusals --------------------------------------------------------------------------------------------------------------

_TOKENS = "https://huggingface.co/settings/tokens"
_LOGIN = f"set HF_TOKEN to a token from {_TOKENS}, or log in with `hf auth login`"


def unreachable(endpoint: str) -> str:
    """The sentence for a hub that does not answer."""
    return f"{endpoint} cannot be reached; check the network, the proxy and HF_ENDPOINT, and run the command again."


def refusal(repository: Repository, status: int, headers: Mapping[str, str]) -> DownloadError:
    """The error for an HTTP status of 400 or more.

    Args:
        repository: what was asked for.
        status: the HTTP status.
        headers: those of the answer. The hub gives the reason in X-Error-Code.
    """
    name, code = repository.name, headers.get("X-Error-Code")
    page = f"{repository.endpoint}/{name}"
    has_token = any(key.lower() == "authorization" for key in repository.headers)
    if code == "GatedRepo" and not has_token:
        text = f"{name} is gated and no token was found; accept its licence on {page}, then {_LOGIN}."
    elif code == "GatedRepo":
        text = (
            f"The account of your token has no access to {name}; accept its licence on {page}, wait until access is granted, and "
            "run the command again."
        )
    elif code == "RevisionNotFound":
        text = f"{name} has no revision {repository.revision!r}; give a branch, tag or commit of {page}, or leave --revision out."
    elif headers.get("X-Error-Message") == "Invalid credentials in Authorization header":
        text = f"The hub refuses your token; {_LOGIN} again."
    elif code == "RepoNotFound" or status in (401, 404):
        private = "give a token that may read it" if has_token else _LOGIN
        text = f"There is no repository {name} on {repository.endpoint}; check the name, or, if it is private, {private}."
    elif status == 403:
        text = f"The hub forbids the download of {name}; give the token the right to read gated repositories on {_TOKENS}."
    elif status == 429:
        text = "The hub refuses more requests for now; wait some minutes and run the command again."
    else:
        text = f"The hub answers with status {status}; run the command again later."
    return DownloadError(text)
