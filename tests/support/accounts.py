"""Signing in to a demo with users, over HTTP."""

from __future__ import annotations

import requests

from tests.support.program import Program

PASSWORD = "correct horse"
# Its hash of one round of scrypt, with which a sign-in takes a fifth of the time.
HASH = "scrypt$14$8$1$c2FsdCBvZiBhIHRlc3QuLg$TafriziTRuzrTsorl_NBVfWXX2reMbYDqnEkzkvegxg"


def users(*names: str) -> str:
    """The option `users` for people who all have the password."""
    return ",".join(f"{name}:{HASH}" for name in names)


def sign_in(server: Program, name: str = "anna", password: str = PASSWORD, **fields: str) -> requests.Session:
    session = requests.Session()
    answer = session.post(f"{server.url}/login", data={"name": name, "password": password, **fields}, allow_redirects=False)
    assert answer.status_code == 303, answer.text
    return session
