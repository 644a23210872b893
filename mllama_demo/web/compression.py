"""Compresses a response body with the best method that a browser accepts."""

from __future__ import annotations

import gzip


def encoding_for(accept_encoding: str) -> str | None:
    """The Content-Encoding for a request's header Accept-Encoding: "br", "gzip", or None for no compression.

    Browsers accept "br" only over HTTPS and on localhost.
    """
    accepted = [part.split(";")[0].strip() for part in accept_encoding.lower().split(",")]
    return next((encoding for encoding in ("br", "gzip") if encoding in accepted), None)


def compress(content: bytes, encoding: str | None) -> bytes:
    """The content in an encoding of `encoding_for`."""
    if encoding == "br":
        import brotli

        return brotli.compress(content, quality=5)  # takes about as long as gzip
    return gzip.compress(content, 6, mtime=0) if encoding == "gzip" else content
