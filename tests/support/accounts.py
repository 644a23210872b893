"""Signing in to a demo with users, over HTTP."""

from __future__ import annotations

import requests

from tests.support.program import Program

PASSWORD = "correct horse"


def sign_in(server: Program, name: str = "anna", password: str = PASSWORD, **fields: str) -> requests.Session:
    session = requests.Session()
    answer = session.post(f"{server.url}/login", data={"name": name, "password": password, **fields}, allow_redirects=False)
    assert answer.status_code == 303, answer.text
    return session
