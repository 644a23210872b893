"""The brand: a colour that can be read wherever it stands, a logo that can be shown, and text that is only text."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mllama_demo.config.branding import (
    DARK_BACKGROUND,
    LIGHT_BACKGROUND,
    MAX_LOGO_BYTES,
    MIN_CONTRAST,
    MIN_CONTROL_CONTRAST,
    Brand,
    contrast,
    load_brand,
    readable,
)
from mllama_demo.config.loader import load_settings
from mllama_demo.config.settings import Settings
from mllama_demo.errors import ConfigError
from mllama_demo.web.templating import render


def test_contrast_is_wcags():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#ffffff", "#ffffff") == 1
    assert contrast("#777777", "#ffffff") == pytest.approx(4.478, abs=0.001)  # the well-known grey that just fails


@given(st.integers(0, 0xFFFFFF))
@settings(deadline=None)
def test_every_colour_can_be_read_on_both_backgrounds_and_text_on_it(number: int):
    brand = Brand("x", f"#{number:06x}")
    assert contrast(brand.on_light, LIGHT_BACKGROUND) >= MIN_CONTRAST
    assert contrast(brand.on_dark, DARK_BACKGROUND) >= MIN_CONTRAST
    assert contrast(brand.text_color, brand.color) >= MIN_CONTRAST
    assert contrast(brand.control_color, "#ffffff") >= MIN_CONTROL_CONTRAST
    assert contrast(brand.control_color, DARK_BACKGROUND) >= MIN_CONTROL_CONTRAST
    # The text of a question, on its tint in Gradio's light theme.
    assert contrast("#27272a", brand.palette()[50]) >= MIN_CONTRAST


def test_a_colour_that_can_be_read_stays_as_it_is():
    assert readable("#0b5fff", LIGHT_BACKGROUND, darker=True) == "#0b5fff"


@pytest.mark.parametrize("color", ["red", "#fff", "#12345g", "#1234567", "url(x)", "#000000;x:y"])
def test_what_is_no_colour_is_refused(color):
    with pytest.raises(ConfigError, match="brand_color must be a colour such as #c2410c"):
        load_settings(["--brand-color", color], {})


def test_a_transparent_logo_stays_transparent_and_becomes_small(tmp_path):
    path = tmp_path / "logo.png"
    Image.new("RGBA", (2000, 400), (255, 0, 0, 0)).save(path)
    brand = load_brand(Settings(brand_logo=path))
    assert brand.logo is not None
    assert brand.logo.startswith("data:image/png;base64,")
    assert len(brand.logo) < 10_000
    assert brand.icon == brand.logo


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("missing.png", None, "cannot be read: No such file"),
        ("text.png", b"hello", "cannot be shown"),
        ("text.svg", b"hello", "no SVG"),
        ("large.svg", b"<svg" + b" " * MAX_LOGO_BYTES, "too large; at most 256 KiB"),
    ],
)
def test_a_logo_that_cannot_be_shown_is_named_with_the_reason(tmp_path, name, data, words):
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ConfigError, match=words) as error:
        load_brand(Settings(brand_logo=path))
    assert str(path) in str(error.value)


def test_titles_and_footers_are_text_on_every_page():
    nasty = '"><script>alert(1)</script>'
    brand = Brand(nasty, footer=nasty)
    values = {"heading": nasty, "sentence": nasty, "link": None}
    pages = [
        render("web/notice", brand, **values),
        render("auth/logout", brand, **values),
        render("auth/login", brand, heading=nasty, action="/", name=nasty, next=nasty, problem=nasty),
        render("share/conversation", brand, title=nasty, dates=nasty, turns=[], text_style=""),
        brand.footer_html(),
        render("explore/page", brand).replace('<script type="module"', ""),
    ]
    for page in pages:
        assert "&lt;script&gt;" in page
        assert not re.search(r"<script", page)


def test_a_page_keeps_its_own_colours_unless_one_was_chosen():
    assert load_brand(Settings()).gradio_css() == ""
    css = load_brand(Settings(brand_color="#0B5FFF")).gradio_css()
    assert "--button-primary-background-fill: #0b5fff" in css
    assert css.count("--primary-50: #f3f7ff") == css.count("--secondary-500: #0b5fff") == 2
