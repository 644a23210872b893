"""The branding of a deployment: title, logo, accent colour and footer, checked once and used by every page."""

from __future__ import annotations

import base64
import colorsys
import html
import io
from dataclasses import dataclass
from pathlib import Path

from mllama_demo.config.settings import Settings
from mllama_demo.errors import ConfigError, ImageError
from mllama_demo.images.loading import load_image, size_text

DEFAULT_COLOR = "#c2410c"
MAX_LOGO_BYTES = 256 * 2**10
# WCAG 2.2, success criterion 1.4.3: text of normal size.
MIN_CONTRAST = 4.5
# The backgrounds of accent-coloured text, in web/templates/page.html.jinja and in Gradio's theme.
LIGHT_BACKGROUND = "#f5f5f4"
DARK_BACKGROUND = "#292524"


@dataclass(frozen=True)
class Brand:
    """The branding of every page.

    Attributes:
        color: #rrggbb as configured.
        logo: a data: URI.
        footer: plain text, possibly empty.
        customized: whether the colour is configured; otherwise a page keeps its own colours.
    """

    title: str
    color: str = DEFAULT_COLOR
    logo: str | None = None
    footer: str = ""
    customized: bool = False

    @property
    def on_light(self) -> str:
        """The colour for text on a light background, darkened until the contrast is sufficient."""
        return readable(self.color, LIGHT_BACKGROUND, darker=True)

    @property
    def on_dark(self) -> str:
        """The colour for text on a dark background, lightened until the contrast is sufficient."""
        return readable(self.color, DARK_BACKGROUND, darker=False)

    @property
    def text_color(self) -> str:
        """The colour of text on the accent colour: black or white, the one with more contrast."""
        return "#ffffff" if contrast(self.color, "#ffffff") >= contrast(self.color, "#000000") else "#000000"

    def gradio_css(self) -> str:
        """CSS that sets the configured colour in a Gradio page; empty without a configured colour."""
        if not self.customized:
            return ""
        # Gradio 6.31 sets its variables on :root and .dark; the doubled selectors have a higher specificity.
        shared = (
            f"--button-primary-background-fill: {self.color}; --button-primary-background-fill-hover: {self.color}; "
            f"--button-primary-text-color: {self.text_color}; --button-primary-border-color: {self.color};"
        )
        return (
            f":root:root {{ {shared} --color-accent: {self.on_light}; --slider-color: {self.on_light}; }}\n"
            f":root .dark.dark, :root.dark.dark {{ {shared} --color-accent: {self.on_dark}; --slider-color: {self.on_dark}; }}\n"
        )

    def logo_html(self, height_px: int = 28) -> str:
        """An <img> without a text alternative, because the title is beside it; empty without a logo."""
        return "" if self.logo is None else f'<img class="brand-logo" src="{self.logo}" alt="" height="{height_px}">'

    def footer_html(self) -> str:
        return f'<div class="brand-footer">{html.escape(self.footer)}</div>' if self.footer else ""


def load_brand(settings: Settings) -> Brand:
    """The configured branding. Raises ConfigError for a logo that cannot be shown."""
    logo = None if settings.brand_logo is None else _logo(settings.brand_logo)
    color = settings.brand_color or DEFAULT_COLOR
    return Brand(settings.title, color.lower(), logo, settings.brand_footer.strip(), settings.brand_color is not None)


def contrast(one: str, other: str) -> float:
    """WCAG's contrast ratio of two #rrggbb colours, 1 to 21."""
    dark, light = sorted((_luminance(one), _luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def readable(color: str, background: str, darker: bool) -> str:
    """The colour, made darker or lighter until text in it has enough contrast with the background."""
    red, green, blue = _channels(color)
    hue, light, saturation = colorsys.rgb_to_hls(red, green, blue)
    while contrast(color, background) < MIN_CONTRAST:
        light = max(0.0, light - 0.01) if darker else min(1.0, light + 0.01)
        color = "#" + "".join(f"{round(channel * 255):02x}" for channel in colorsys.hls_to_rgb(hue, light, saturation))
    return color


def _channels(color: str) -> tuple[float, float, float]:
    return int(color[1:3], 16) / 255, int(color[3:5], 16) / 255, int(color[5:7], 16) / 255


def _luminance(color: str) -> float:
    # WCAG 2.2, "relative luminance".
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in _channels(color)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _logo(path: Path) -> str:
    """The logo as a data: URI.

    An SVG is kept as it is, because an <img> runs no script of it and loads nothing. Other formats become a PNG without metadata.
    """
    try:
        if path.stat().st_size > MAX_LOGO_BYTES:
            raise ConfigError(f"brand_logo {path} is too large; at most {size_text(MAX_LOGO_BYTES)} are allowed.")
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"brand_logo {path} cannot be read: {error.strerror}.") from None
    if path.suffix.lower() == ".svg":
        if b"<svg" not in data:
            raise ConfigError(f"brand_logo {path} is no SVG; a logo is a PNG, JPEG, WebP or SVG file.")
        return "data:image/svg+xml;base64," + base64.b64encode(data).decode("ascii")
    try:
        load_image(data, path.name)  # checks the file; its RGB image would lose transparency
        from PIL import Image

        image = Image.open(io.BytesIO(data)).convert("RGBA")
    except ImageError as error:
        raise ConfigError(f"brand_logo {path} cannot be shown: {error}") from None
    image.thumbnail((512, 128))
    file = io.BytesIO()
    image.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
