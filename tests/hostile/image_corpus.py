"""Hostile image files, made by this script: broken, huge, slow, disguised, and some that only look wrong.

The corpus is a mapping of names to functions that make the bytes. It is the same in every run.
"""

from __future__ import annotations

import gzip
import io
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any

from PIL import Image

from tests.support.image_files import corners, encode

Maker = Callable[[], bytes]
SIZE = (48, 36)
PNG = b"\x89PNG\r\n\x1a\n"


# --- the files that the corpus starts from -------------------------------------------------------------------------------


def picture(mode: str = "RGB") -> Image.Image:
    rng = random.Random(7)
    noise = Image.frombytes("RGB", SIZE, rng.randbytes(3 * SIZE[0] * SIZE[1]))
    noise.paste(corners(), (2, 2))
    return noise.convert(mode)


def saved(format: str, mode: str = "RGB", **options: Any) -> Maker:
    return cache(lambda: encode(picture(mode), format, **options))


def exif(orientation: int = 6) -> Image.Exif:
    values = Image.Exif()
    values[0x0112] = orientation
    values[0x010E] = "a description"
    return values


def animation(format: str, frames: int = 5, **options: Any) -> Maker:
    others = [Image.new("RGB", SIZE, (i, 0, 0)) for i in range(frames)]
    return cache(lambda: encode(picture(), format, save_all=True, append_images=others, **options))


WHOLE: dict[str, Maker] = {
    "png": saved("PNG"),
    "png rgba": saved("PNG", "RGBA"),
    "png palette": saved("PNG", "P", transparency=0),
    "png exif": cache(lambda: encode(picture(), "PNG", exif=exif())),
    "apng": animation("PNG"),
    "jpeg": cache(lambda: encode(picture(), "JPEG", exif=exif(), icc_profile=b"no profile")),
    "jpeg progressive": saved("JPEG", progressive=True),
    "jpeg cmyk": saved("JPEG", "CMYK"),
    "mpo": animation("MPO"),
    "webp": cache(lambda: encode(picture(), "WEBP", exif=exif())),
    "webp lossless": saved("WEBP", "RGBA", lossless=True),
    "webp animation": animation("WEBP"),
    "gif": saved("GIF", "P", comment=b"hello"),
    "gif animation": animation("GIF"),
    "bmp": saved("BMP"),
    "bmp palette": saved("BMP", "P"),
    "tiff": cache(lambda: encode(picture(), "TIFF", exif=exif())),
    "tiff lzw": saved("TIFF", compression="tiff_lzw"),
    "tiff jpeg ycbcr": saved("TIFF", "YCbCr", compression="jpeg"),
    "tiff ycbcr": saved("TIFF", "YCbCr"),
    "tiff pages": animation("TIFF"),
    "avif": saved("AVIF"),
    "heif": saved("HEIF"),
}
MAIN = ("png", "jpeg", "webp", "gif", "bmp", "tiff lzw", "avif", "heif")


# --- parts of files ------------------------------------------------------------------------------------------------------


def chunk(kind: bytes, body: bytes, crc: int | None = None) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) if crc is None else crc)


def png(width: int, height: int, *chunks: bytes, bits: int = 8, colour: int = 2, interlace: int = 0) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlace))
    return PNG + header + b"".join(chunks) + chunk(b"IEND", b"")


def pixels(width: int, height: int, bytes_per_pixel: int = 3, level: int = 9) -> bytes:
    return chunk(b"IDAT", zlib.compress(bytes(height * (1 + width * bytes_per_pixel)), level))


def segment(code: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, code, len(body) + 2) + body


def jpeg_with(*segments: bytes, base: str = "jpeg progressive") -> bytes:
    data = WHOLE[base]()
    return data[:2] + b"".join(segments) + data[2:]


@cache
def gif_parts() -> tuple[bytes, bytes]:
    """The header with the palette, and the frame of a GIF of 8 × 8 pixels."""
    data = encode(Image.new("P", (8, 8), 1), "GIF")
    end = 13 + (3 << (data[10] & 7) + 1)
    return data[:end], data[data.index(b",", end) : -1]


def gif(*blocks: bytes, size: tuple[int, int] = (8, 8)) -> bytes:
    header = gif_parts()[0]
    return header[:6] + struct.pack("<HH", *size) + header[10:] + b"".join(blocks) + b";"


def gif_frame(left: int = 0, top: int = 0, width: int = 8, height: int = 8) -> bytes:
    return b"," + struct.pack("<HHHH", left, top, width, height) + gif_parts()[1][9:]


def tiff(tags: list[tuple[int, int, int, int]], rest: bytes = b"", next_ifd: int = 0) -> bytes:
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", next_ifd) + rest


def plain_tiff(width: int, height: int, *more: tuple[int, int, int, int], **options: Any) -> bytes:
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8)]
    tags += [(277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, width * height & 0xFFFFFFFF), *more]
    return tiff(tags, bytes(64), **options)


def bmp(width: int, height: int, bits: int = 24, compression: int = 0, rest: bytes = b"", colours: int = 0) -> bytes:
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(rest), 0, 0, colours, 0)
    offset = 14 + 40 + 4 * colours
    return b"BM" + struct.pack("<IHHI", offset + len(rest), 0, 0, offset) + info + bytes(4 * colours) + rest


def webp(kind: bytes, body: bytes) -> bytes:
    content = b"WEBP" + kind + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)
    return b"RIFF" + struct.pack("<I", len(content)) + content


def riff_size(width: int, height: int, flags: int = 0) -> bytes:
    return bytes([flags, 0, 0, 0]) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")


def jpeg_of(width: int, height: int) -> bytes:
    """A JPEG whose header claims another size than its data has."""
    data = bytearray(WHOLE["jpeg"]())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def jpeg_scans(count: int) -> bytes:
    data = WHOLE["jpeg progressive"]()
    last = data.rfind(b"\xff\xda")
    return data[:-2] + data[last:-2] * count + data[-2:]


def box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body) + 8) + kind + body


def heif_of(width: int, height: int, base: str) -> bytes:
    """An AVIF or HEIC file whose properties claim another size than its data has."""
    data = bytearray(WHOLE[base]())
    at = data.index(b"ispe") + 8
    data[at : at + 8] = struct.pack(">II", width, height)
    return bytes(data)


def exif_loop() -> bytes:
    """EXIF data whose directories refer to themselves."""
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, 8) for tag in (0x8769, 0x8825, 0xA005))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", 3) + entries + struct.pack("<I", 8)


def exif_overlap(entries: int = 5000) -> bytes:
    """EXIF data with many entries that share one value of 60 kB."""
    body = b"".join(struct.pack("<HHII", tag, 7, 60_000, 8) for tag in range(1, entries + 1))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", entries) + body + bytes(64_000)


# --- the corpus ----------------------------------------------------------------------------------------------------------


def _truncated() -> dict[str, Maker]:
    def cut(name: str, part: float) -> Maker:
        return lambda: WHOLE[name]()[: int(len(WHOLE[name]()) * part)]

    parts = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
    return {f"{name}, the first {part:.0%}": cut(name, part) for name in MAIN for part in parts}


def _flipped() -> dict[str, Maker]:
    def flip(name: str, seed: int) -> Maker:
        def make() -> bytes:
            rng, data = random.Random(seed), bytearray(WHOLE[name]())
            for _ in range(1 + seed % 12):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            return bytes(data)

        return make

    def overwrite(name: str, seed: int) -> Maker:
        def make() -> bytes:
            rng, data = random.Random(seed), bytearray(WHOLE[name]())
            start = rng.randrange(8, len(data) - 8)
            data[start : start + 16] = (b"\xff" if seed % 2 else b"\0") * 16
            return bytes(data)

        return make

    flips = {f"{name}, bits flipped, {seed}": flip(name, seed) for name in WHOLE for seed in range(5)}
    return flips | {f"{name}, bytes overwritten, {seed}": overwrite(name, seed) for name in WHOLE for seed in range(3)}


def _joined() -> dict[str, Maker]:
    made: dict[str, Maker] = {}
    for name in MAIN:
        made[f"{name}, then a web page"] = lambda name=name: WHOLE[name]() + b"<html><script>alert(1)</script></html>"
        made[f"{name}, then itself"] = lambda name=name: WHOLE[name]() * 2
        made[f"{name}, behind a blank"] = lambda name=name: b" " + WHOLE[name]()
    made["png and zip"] = lambda: WHOLE["png"]() + _zip()
    made["jpeg with PHP in a comment"] = lambda: jpeg_with(segment(0xFE, b"<?php system($_GET[0]); ?>"))
    made["gif and script"] = lambda: b"GIF89a/*" + WHOLE["gif"]()[8:] + b"*/=1;alert(1)"
    made["pdf with a jpeg"] = lambda: b"%PDF-1.7\n" + WHOLE["jpeg"]()
    made["half png, half jpeg"] = lambda: WHOLE["png"]()[:500] + WHOLE["jpeg"]()[500:]
    return made


def _zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a.png", WHOLE["png"]())
    return out.getvalue()


OTHER_FILES: dict[str, Maker] = {
    "an empty file": lambda: b"",
    "one byte": lambda: b"\x89",
    "zeros": lambda: bytes(10_000),
    "text": lambda: b"hello " * 1000,
    "a web page": lambda: b"<!DOCTYPE html><html><body><img src=x onerror=alert(1)></body></html>",
    "an SVG": lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
    "an SVG with an entity": lambda: b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg>&x;</svg>',
    "an SVG of a billion laughs": lambda: b'<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]><svg>&b;</svg>',
    "PostScript": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n",
    "a ZIP": _zip,
    "a gzip bomb": lambda: gzip.compress(bytes(20_000_000)),
    "a video": lambda: box(b"ftyp", b"mp42\0\0\0\0mp42isom") + bytes(1000),
    "a JPEG XL": lambda: b"\xff\x0a" + bytes(100),
    "an executable": lambda: b"\x7fELF\x02\x01\x01" + bytes(200),
    "a pickle": lambda: b"\x80\x04\x95\x1a\0\0\0\0\0\0\0\x8c\x05posix\x8c\x06system\x93\x8c\x02ls\x85R.",
    **{f"a {format}": saved(format) for format in ("PPM", "ICO", "TGA", "PCX", "JPEG2000", "EPS", "SGI", "DDS")},
    **{f"noise, {seed}": lambda seed=seed: random.Random(seed).randbytes(3000) for seed in range(6)},
    **{f"the signature of {name} and noise": lambda name=name: WHOLE[name]()[:12] + random.Random(name).randbytes(3000)
       for name in MAIN},
}  # fmt: skip

SIZES: dict[str, Maker] = {
    **{f"a png that claims {w} × {h}": lambda w=w, h=h: png(w, h, pixels(4, 4)) for w, h in (
        (0, 0), (0, 9), (9, 0), (2**31 - 1, 2**31 - 1), (2**32 - 1, 1), (1, 2**32 - 1), (60_000, 60_000), (7072, 7072),
        (7000, 7000), (100_000, 500), (500, 100_000), (31, 1), (1, 31), (30, 1),
    )},
    **{f"a jpeg that claims {w} × {h}": lambda w=w, h=h: jpeg_of(w, h) for w, h in (
        (0, 0), (0, 36), (48, 0), (65_500, 65_500), (65_535, 1), (1, 65_535), (7000, 7000), (3000, 3000), (47, 35), (49, 37),
    )},
    **{f"a gif that claims {w} × {h}": lambda w=w, h=h: gif(gif_frame(width=w, height=h), size=(w, h)) for w, h in (
        (0, 0), (65_535, 65_535), (65_535, 1), (1, 65_535), (7000, 7000), (3000, 3000),
    )},
    **{f"a bmp that claims {w} × {h}": lambda w=w, h=h: bmp(w, h, rest=bytes(64)) for w, h in (
        (0, 0), (4, -4), (-4, 4), (2**31 - 1, 2**31 - 1), (-(2**31), -(2**31)), (7000, 7000), (1, 100_000_000),
    )},
    **{f"a tiff that claims {w} × {h}": lambda w=w, h=h: plain_tiff(w, h) for w, h in (
        (0, 0), (2**32 - 1, 2**32 - 1), (7000, 7000), (65_535, 65_535), (4, 4),
    )},
    **{f"a webp that claims {w} × {h}": lambda w=w, h=h: webp(b"VP8X", riff_size(w, h)) for w, h in (
        (1, 1), (16_777_216, 16_777_216), (16_777_216, 1), (7000, 7000), (3000, 3000),
    )},
    **{f"an {base} that claims {w} × {h}": lambda w=w, h=h, base=base: heif_of(w, h, base)
       for base in ("avif", "heif") for w, h in (
        (0, 0), (2**32 - 1, 2**32 - 1), (65_536, 65_536), (7000, 7000), (1, 36), (96, 72),
    )},
}  # fmt: skip

BOMBS: dict[str, Maker] = {
    "a png of 49 megapixels in 150 kB": lambda: png(7000, 7000, pixels(7000, 7000)),
    "a png of 49 megapixels, 16 bits and alpha": lambda: png(7000, 7000, pixels(7000, 7000, 8), bits=16, colour=6),
    "an interlaced png of 16 megapixels": lambda: png(4000, 4000, pixels(4000, 4010), interlace=1),
    "a png with more pixels than it claims": lambda: png(10, 10, pixels(3000, 3000)),
    "a png whose pixels are compressed twice": lambda: png(9, 9, chunk(b"IDAT", zlib.compress(zlib.compress(bytes(9**6))))),
    "a png of 200,000 empty pixel chunks": lambda: png(4, 4, chunk(b"IDAT", b"") * 200_000, pixels(4, 4)),
    "a png of 200,000 texts": lambda: png(4, 4, chunk(b"tEXt", b"a\0b") * 200_000, pixels(4, 4)),
    "a png with a text of 50 MB": lambda: png(4, 4, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(50_000_000))), pixels(4, 4)),
    "a png with a workflow": lambda: png(4, 4, chunk(b"tEXt", b"workflow\0" + b'{"node":1}' * 200_000), pixels(4, 4)),
    "a png with a profile of 50 MB": lambda: png(4, 4, chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(50_000_000))), pixels(4, 4)),
    "a png with 100,000 frames": lambda: png(
        4, 4, chunk(b"acTL", struct.pack(">II", 100_000, 0)), pixels(4, 4), chunk(b"fdAT", bytes(8)) * 100_000
    ),
    "a png with a chunk that claims 2 GB": lambda: WHOLE["png"]()[:33] + struct.pack(">I", 2**31 - 1) + b"IDAT" + bytes(99),
    "a png of many palettes": lambda: png(4, 4, chunk(b"PLTE", bytes(768)) * 5000, pixels(4, 4, 1), colour=3),
    "a gif comment of 500,000 blocks": lambda: gif(b"\x21\xfe" + b"\x01A" * 500_000 + b"\0", gif_frame()),
    "a gif comment that does not end": lambda: gif()[:-1] + b"\x21\xfe" + b"\x01A" * 500_000,
    "a gif of 100,000 comments": lambda: gif(b"\x21\xfe\x01A\0" * 100_000, gif_frame()),
    "a gif of 100,000 extensions": lambda: gif(b"\x21\xff\x01A\0" * 100_000, gif_frame()),
    "a gif of 100,000 frames": lambda: gif(gif_frame() * 100_000),
    "a gif of a million bytes between blocks": lambda: gif(b"\0" * 1_000_000, gif_frame()),
    "a gif frame of 500,000 blocks": lambda: gif(gif_frame()[:11] + b"\x01\xff" * 500_000 + b"\0"),
    "a gif frame beyond its screen": lambda: gif(gif_frame(60_000, 60_000)),
    "a gif frame that is empty": lambda: gif(gif_frame(width=0, height=0)),
    "a gif of a code size that does not exist": lambda: gif(b"," + struct.pack("<HHHHB", 0, 0, 8, 8, 0) + b"\x0c\x01\0\0"),
    "a jpeg of 90 scans": lambda: jpeg_scans(90),
    "a jpeg of 5000 scans": lambda: jpeg_scans(5000),
    "a jpeg of 300 profiles": lambda: jpeg_with(*[segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(30_000))] * 300),
    "a jpeg of 100,000 comments": lambda: jpeg_with(*[segment(0xFE, b"a")] * 100_000),
    "a jpeg of 100,000 tables": lambda: jpeg_with(*[segment(0xDB, b"\0" + bytes([1] * 64))] * 100_000),
    "a jpeg of a megabyte of fill bytes": lambda: jpeg_with(b"\xff" * 1_000_000),
    "a jpeg of a million restarts": lambda: WHOLE["jpeg"]()[:-2] + b"\xff\xd0" * 1_000_000 + b"\xff\xd9",
    "a jpeg whose segment claims no length": lambda: jpeg_with(b"\xff\xe5\0\0"),
    "a jpeg of two billion pictures": lambda: jpeg_with(
        segment(0xE2, b"MPF\0" + tiff([(0xB001, 4, 1, 2**31 - 1)]))
    ),
    "a tiff of 60,000 entries that share 10 MB": lambda: tiff(
        [(256, 4, 1, 4), (257, 4, 1, 4), *[(1000 + i % 64_000, 7, 10_000_000, 8) for i in range(60_000)]], bytes(10_000_000)
    ),
    "a tiff whose directory follows itself": lambda: plain_tiff(4, 4, next_ifd=8),
    "a tiff with an entry of 4 GB": lambda: plain_tiff(4, 4, (700, 7, 2**32 - 1, 8)),
    "a tiff of a million strips": lambda: plain_tiff(4, 4, (273, 4, 1_000_000, 8)),
    "a tiff of 60,000 samples": lambda: plain_tiff(4, 4, (277, 3, 1, 60_000), (258, 3, 60_000, 8)),
    "a tiff of a compression that does not exist": lambda: plain_tiff(4, 4, (259, 3, 1, 9999)),
    "a bmp of runs that never end": lambda: bmp(5000, 5000, 8, 1, b"\x01\x01" * 500_000, 256),
    "a bmp of jumps": lambda: bmp(5000, 5000, 8, 1, b"\0\x02\xff\xff" * 100_000, 256),
    "a bmp of two billion colours": lambda: bmp(4, 4, 8, 0, bytes(16))[:46] + struct.pack("<I", 2**31 - 1) + bytes(64),
    "a webp of 20,000 frames": lambda: webp(
        b"VP8X",
        riff_size(8, 8, 2) + b"ANIM" + struct.pack("<I", 6) + bytes(6) + (b"ANMF" + struct.pack("<I", 16) + bytes(16)) * 20_000,
    ),
    "an avif of many boxes": lambda: WHOLE["avif"]()[:32] + box(b"free", b"") * 100_000 + WHOLE["avif"]()[32:],
    "an avif of nested boxes": lambda: (
        box(b"ftyp", b"avif\0\0\0\0avifmif1") + struct.pack(">I", 10**6) + b"meta" + box(b"iprp", b"") * 9999
    ),
    "a heif of many boxes": lambda: WHOLE["heif"]()[:24] + box(b"free", b"") * 100_000 + WHOLE["heif"]()[24:],
}  # fmt: skip

METADATA: dict[str, Maker] = {}
for _name, _data in {
    "that refers to itself": exif_loop(),
    "of entries that overlap": exif_overlap()[:65_000],
    "that breaks off": exif_loop()[:20],
    "of zeros": bytes(100),
    "of noise": random.Random(3).randbytes(2000),
    "that is a text": b"hello",
    "with an orientation of 4 billion": b"II*\0\x08\0\0\0\x01\0\x12\x01\x04\0\x01\0\0\0\xff\xff\xff\xff\0\0\0\0",
    "with an orientation of many values": b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\xff\xff\0\0\x08\0\0\0\0\0\0\0",
    "with an orientation that is a text": b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x04abcd\0\0\0\0",
}.items():
    METADATA[f"a jpeg with EXIF {_name}"] = lambda data=_data: jpeg_with(segment(0xE1, b"Exif\0\0" + data[:65_000]))
    METADATA[f"a png with EXIF {_name}"] = lambda data=_data: png(4, 4, chunk(b"eXIf", data), pixels(4, 4))
    METADATA[f"a webp with EXIF {_name}"] = lambda data=_data: encode(picture(), "WEBP", exif=data)
METADATA |= {
    "a jpeg with a profile that is none": lambda: encode(picture(), "JPEG", icc_profile=random.Random(2).randbytes(3000)),
    "a webp with a profile that is none": lambda: encode(picture(), "WEBP", icc_profile=b"no"),
    "a png with a broken profile": lambda: png(4, 4, chunk(b"iCCP", b"a\0\0broken"), pixels(4, 4)),
    "a png with a wrong checksum of a text": lambda: png(4, 4, chunk(b"tEXt", b"a\0b", 5), pixels(4, 4)),
    "a png with a wrong checksum of the pixels": lambda: png(4, 4, chunk(b"IDAT", zlib.compress(bytes(52)), 5)),
    "a png with an XMP packet that is none": lambda: png(4, 4, chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0no"), pixels(4, 4)),
    "a jpeg with XMP that never ends": lambda: jpeg_with(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + b"<a>" * 20_000)),
}

CORPUS: dict[str, Maker] = {
    **WHOLE, **_truncated(), **_flipped(), **_joined(), **OTHER_FILES, **SIZES, **BOMBS, **METADATA,
}  # fmt: skip
