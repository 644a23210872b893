"""Leaves out what the decoder does not need of an image file: comments, text, profiles, and all frames but the first.

A decoder may take minutes for such parts: Pillow reads a GIF comment in time that grows with the square of its length. What is
left decodes to the same pixels and has the same orientation. A file that breaks the rules of its format is kept from there on, so
that the decoder says what is wrong. Knows no Pillow.
"""

from __future__ import annotations

import re
import struct
import zlib

_MAX_TEXT_BYTES = 64 * 2**10  # of a compressed text that may hold the orientation

_ORIENTATION_TAG = 0x0112
_EXIF_NUMBERS = {1: "B", 3: "H", 4: "I"}  # the types of EXIF that Pillow takes for an orientation

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_ONCE = (b"IHDR", b"PLTE", b"tRNS")
# The texts in which Pillow looks for an orientation.
_PNG_TEXT = re.compile(rb"(Raw profile type (exif|APP1)|XML:com\.adobe\.xmp)\0")
_MAX_PNG_PIXEL_CHUNKS = 10_000  # in more of them, each is too small to be read one by one

_GIF = re.compile(rb"GIF8[79]a")
_GIF_EXTENSION, _GIF_IMAGE, _GIF_GRAPHIC_CONTROL = 0x21, 0x2C, 0xF9
_GIF_END = b";"

_JPEG = b"\xff\xd8\xff"
_JPEG_MARKER = re.compile(rb"\xff+([^\x00\xff])")
# What the decoder reads of the segments APP0 to APP15: JFIF and Adobe for the colours, the others for the orientation.
_JPEG_APP = re.compile(rb"JFIF\0|Adobe|Exif\0|http://ns\.adobe\.com/xap/1\.0/\0")
_JPEG_SOS, _JPEG_COMMENT = 0xDA, 0xFE
_JPEG_APPS = range(0xE0, 0xF0)
_JPEG_WITHOUT_LENGTH = (0x01, *range(0xD0, 0xDA))


def without_metadata(data: bytes) -> bytes:
    """The file without the parts that change neither its pixels nor its orientation; the same object where there are none."""
    if data.startswith(_PNG):
        return _png(data)
    if _GIF.match(data):
        return _gif(data)
    if data.startswith(_JPEG):
        return _jpeg(data)
    return data


def _png(data: bytes) -> bytes:
    """Keeps one chunk of each kind that matters, and all pixels; joins the chunks of pixels where there are too many."""
    view, position = memoryview(data), len(_PNG)
    kept: list[bytes | memoryview] = [view[:position]]
    pixels: list[memoryview] = []
    seen: set[bytes] = set()
    whole, dropped = False, False
    while not whole and position + 12 <= len(data):
        size = int.from_bytes(view[position : position + 4], "big")
        kind, end = bytes(view[position + 4 : position + 8]), position + 12 + size
        if end > len(data):
            break
        if kind == b"IDAT":
            pixels.append(view[position:end])
        elif kind == b"IEND":
            whole = True
        elif kind == b"eXIf":
            kept.append(_png_chunk(kind, _orientation_alone(view[position + 8 : end - 4])) if kind not in seen else b"")
            seen.add(kind)
            dropped = True
        elif kind not in seen and _is_png_chunk_needed(kind, view[position + 8 : end - 4]):
            seen.add(kind)
            kept.append(view[position:end])
        else:
            dropped = True
        position = end
    if not dropped and len(pixels) <= _MAX_PNG_PIXEL_CHUNKS:
        return data
    if len(pixels) > _MAX_PNG_PIXEL_CHUNKS:
        pixels = [memoryview(_png_chunk(b"IDAT", b"".join(chunk[8:-4] for chunk in pixels)))]
    return b"".join([*kept, *pixels, _png_chunk(b"IEND", b"") if whole else view[position:]])


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))


def _is_png_chunk_needed(kind: bytes, content: memoryview) -> bool:
    if kind in _PNG_ONCE:
        return True
    if kind not in (b"tEXt", b"zTXt", b"iTXt") or len(content) > _MAX_TEXT_BYTES:
        return False
    text = bytes(content)
    keyword = _PNG_TEXT.match(text)
    if keyword is None:
        return False
    start = keyword.end()
    if kind == b"iTXt" and text[start : start + 1] == b"\1":  # compressed; then a language and a translated keyword
        start = text.find(b"\0", text.find(b"\0", start + 2) + 1) + 1
    elif kind == b"zTXt":
        start += 1
    else:
        return True
    decompressor = zlib.decompressobj()
    try:
        decompressor.decompress(text[start:], _MAX_TEXT_BYTES)
    except zlib.error:
        return False
    return decompressor.eof


def _orientation_alone(exif: memoryview) -> bytes:
    """EXIF data with the orientation and nothing else. Its directories may refer to themselves and to each other."""
    order = {b"II": "<", b"MM": ">"}.get(bytes(exif[:2]), "")
    entry = b""
    if order and len(exif) >= 8:
        start = struct.unpack_from(f"{order}I", exif, 4)[0]
        count = struct.unpack_from(f"{order}H", exif, start)[0] if start + 2 <= len(exif) else 0
        for at in range(start + 2, min(start + 2 + 12 * count, len(exif) - 11), 12):
            tag, kind, values = struct.unpack_from(f"{order}HHI", exif, at)
            if tag == _ORIENTATION_TAG and kind in _EXIF_NUMBERS and values == 1:
                value = struct.unpack_from(order + _EXIF_NUMBERS[kind], exif, at + 8)[0]
                entry = struct.pack("<HHII", tag, 3, 1, value if value <= 8 else 1)
                break
    return b"II*\0\x08\0\0\0" + struct.pack("<H", bool(entry)) + entry + bytes(4)


def _gif(data: bytes) -> bytes:
    """Keeps the header, the first frame and the extension that says which of its colours is transparent."""
    position = 13 + _gif_palette_size(data, 10)
    kept = [data[:position]]
    control = b""
    while position < len(data):
        start, kind = position, data[position]
        if kind == _GIF_EXTENSION:
            position = _after_gif_blocks(data, start + 2)
            if data[start + 1 : start + 2] == bytes([_GIF_GRAPHIC_CONTROL]):
                control = data[start : min(position, start + 8)]
        elif kind == _GIF_IMAGE:
            position = _after_gif_blocks(data, start + 11 + _gif_palette_size(data, start + 9))
            kept += [control, data[start:position], _GIF_END if position <= len(data) else b""]
            return b"".join(kept)
        elif kind == _GIF_END[0]:
            break
        else:  # Pillow skips bytes between blocks, too
            position += 1
    return b"".join(kept) + _GIF_END


def _gif_palette_size(data: bytes, flags_at: int) -> int:
    flags = data[flags_at] if flags_at < len(data) else 0
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _after_gif_blocks(data: bytes, position: int) -> int:
    """The position behind the blocks that begin at `position`; beyond the end of the data when they break off."""
    end = len(data)
    while position < end:
        size = data[position]
        position += 1 + size
        if not size:
            return position
    return end + 1


def _jpeg(data: bytes) -> bytes:
    """Keeps all segments before the first scan but comments and application data, and of the latter one of each kind."""
    view, position, copied = memoryview(data), 2, 0
    kept: list[bytes | memoryview] = []
    seen: set[bytes] = set()
    while marker := _JPEG_MARKER.match(data, position):
        start, code, position = position, marker[1][0], marker.end()
        if code == _JPEG_SOS:
            break
        if code in _JPEG_WITHOUT_LENGTH:
            continue
        content = position + 2
        position += max(2, int.from_bytes(view[position : position + 2], "big"))
        if code != _JPEG_COMMENT and code not in _JPEG_APPS:
            continue
        kind = _JPEG_APP.match(data, content, min(content + 32, len(data)))
        if code == _JPEG_COMMENT or kind is None or kind[0] in seen:
            kept.append(view[copied:start])
            copied = position
        elif kind[0] == b"Exif\0":
            exif = b"Exif\0\0" + _orientation_alone(view[content + 6 : position])
            kept += [view[copied:start], struct.pack(">BBH", 0xFF, code, len(exif) + 2), exif]
            copied = position
            seen.add(kind[0])
        else:
            seen.add(kind[0])
    return b"".join([*kept, view[copied:]]) if kept else data
