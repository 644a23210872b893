"""Passwords as salted scrypt hashes, each one line of text, and the command `hash-password`.

Knows nothing of sessions or the web.
"""

from __future__ import annotations

import base64
import getpass
import hashlib
import hmac
import re
import secrets
import sys

from mllama_demo.errors import BadRequest, ConfigError

# Parameters of RFC 7914. OWASP's cheat sheet names n=2^14, r=8, p=5 as the minimum with 16 MiB of memory.
_LOG_N, _R, _P = 14, 8, 5
_SALT_BYTES, _HASH_BYTES = 16, 32
MIN_LENGTH, MAX_LENGTH = 8, 1000
# Bounds the parameters, because every login computes a hash with them.
_HASH = re.compile(r"scrypt\$(1[4-7])\$8\$([1-9])\$([A-Za-z0-9_-]{22})\$([A-Za-z0-9_-]{43})\Z")
USER_NAME = r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}"
USER = re.compile(rf"({USER_NAME}):(scrypt\$.+)\Z")


def hash_password(password: str) -> str:
    """`scrypt$log2(n)$r$p$salt$hash`, the last two in URL-safe Base64. Raises BadRequest for less than 8 characters."""
    if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
        raise BadRequest(f"A password has {MIN_LENGTH} to {MAX_LENGTH} characters, this one has {len(password)}.")
    salt = secrets.token_bytes(_SALT_BYTES)
    return _line(salt, _scrypt(password, salt, _LOG_N, _P))


def hash_of_no_password() -> str:
    """A hash that `verify` takes as long for as for another, and that no password has: random, and made at once."""
    return _line(secrets.token_bytes(_SALT_BYTES), secrets.token_bytes(_HASH_BYTES))


def is_hash(text: str) -> bool:
    """Whether `verify` can use the text as a hash."""
    return _HASH.match(text) is not None


def verify(password: str, hashed: str) -> bool:
    """Whether the password is the one that was hashed. Compares in constant time and takes about 0.2 s."""
    match = _HASH.match(hashed)
    if match is None or len(password) > MAX_LENGTH:
        return False
    log_n, p, salt, digest = match.groups()
    return hmac.compare_digest(_scrypt(password, _decode(salt), int(log_n), int(p)), _decode(digest))


def _line(salt: bytes, digest: bytes) -> str:
    return f"scrypt${_LOG_N}${_R}${_P}${_encode(salt)}${_encode(digest)}"


def _scrypt(password: str, salt: bytes, log_n: int, p: int) -> bytes:
    n = 2**log_n
    secret = password.encode("utf-8", "surrogatepass")
    return hashlib.scrypt(secret, salt=salt, n=n, r=_R, p=p, maxmem=256 * n * _R, dklen=_HASH_BYTES)


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode("ascii").rstrip("=")


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def main(name: str) -> int:
    """The command `hash-password`: prints an entry for the option `users`.

    Asks for the password twice in a terminal, and reads one line of a stdin that is none.
    """
    if not re.fullmatch(USER_NAME, name):
        raise ConfigError(f"A user's name is of letters, digits and . _ @ + -, at most 64 of them; got {name[:80]!r}.")
    if sys.stdin.isatty():
        password = getpass.getpass("Password: ")
        if getpass.getpass("The same again: ") != password:
            raise BadRequest("The two passwords differ; try again.")
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    print(f"{name}:{hash_password(password)}")
    return 0
