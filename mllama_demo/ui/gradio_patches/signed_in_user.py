"""The function that names the signed-in user to Gradio.

Gradio: 6.31.0
Defect: with an `auth_dependency`, Gradio refuses every page and file to a visitor for whom the function returns None: a demo
  without sign-in must not pass one. Where people sign in, AuthMiddleware has checked the request before; Gradio only gives
  the name to the handlers (gr.Request.username).
Report: no upstream report known
Test: tests/unit/ui/test_gradio_patches.py::test_a_demo_without_sign_in_has_no_auth_dependency
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mllama_demo.web.auth.login import signed_in_user


def auth_dependency(sign_in: bool) -> Callable[..., Any] | None:
    """An argument of gr.mount_gradio_app. sign_in: whether this demo has users."""
    return signed_in_user if sign_in else None
