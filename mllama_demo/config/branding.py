"""The branding of a deployment: title, logo, accent colour and footer. It is checked once at the start. Every page uses it."""

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
ICON_FILE = Path(__file__).with_name("icon.svg")
MAX_LOGO_BYTES = 256 * 2**10  # of the configured file
_MAX_LOGO_PIXELS = (512, 128)  # width and height of the logo on a page
# The smallest contrast of text of normal size (WCAG 2.2, success criterion 1.4.3).
MIN_CONTRAST = 4.5
# The backgrounds of accent-coloured text, in web/templates/page.html.jinja and in Gradio's theme.
LIGHT_BACKGROUND = "#f5f5f4"
DARK_BACKGROUND = "#292524"
# The smallest contrast of a control with what is around it and inside it (WCAG 2.2, success criterion 1.4.11).
MIN_CONTROL_CONTRAST = 3.0
# The shades of the accent colour in a Gradio theme: how much of white, or of black, is mixed in.
_TINTS = {50: 0.95, 100: 0.9, 200: 0.8, 300: 0.6, 400: 0.3}
_SHADES = {600: 0.15, 700: 0.3, 800: 0.45, 900: 0.6, 950: 0.75}


@dataclass(frozen=True)
class Brand:
    """The branding of every page.

    Attributes:
        title: The name of the demo.
        color: The accent colour as #rrggbb.
        logo: A data: URI; None without a logo.
        footer: Plain text; empty without a footer.
        root_path: The path below which a proxy serves the demo. Links of pages begin with it.
        customized: True if the operator configured `color`. Otherwise, a page keeps the colours of its style sheet.
    """

    title: str
    color: str = DEFAULT_COLOR
    logo: str | None = None
    footer: str = ""
    customized: bool = False
    root_path: str = ""

    @property
    def on_light(self) -> str:
        """The accent colour for text on a light background. It is darkened until the contrast is sufficient."""
        return readable(self.color, LIGHT_BACKGROUND, darker=True)

    @property
    def on_dark(self) -> str:
        """The accent colour for text on a dark background. It is lightened until the contrast is sufficient."""
        return readable(self.color, DARK_BACKGROUND, darker=False)

    @property
    def text_color(self) -> str:
        """The colour of text on a background of the accent colour: black or white, whichever has more contrast."""
        return "#ffffff" if contrast(self.color, "#ffffff") >= contrast(self.color, "#000000") else "#000000"

    @property
    def control_color(self) -> str:
        """The accent colour of a checkbox, whose mark is white, on light and dark backgrounds."""
        color = readable(self.color, "#ffffff", darker=True, minimum=MIN_CONTROL_CONTRAST)
        return readable(color, DARK_BACKGROUND, darker=False, minimum=MIN_CONTROL_CONTRAST)

    @property
    def icon(self) -> str:
        """The icon of every page in the browser's tabs, as a data: URI: the logo, or the icon of the demo."""
        return self.logo or _svg_data_uri(ICON_FILE.read_bytes())

    def palette(self) -> dict[int, str]:
        """The shades of the accent colour from 50, almost white, to 950, almost black, as Gradio's themes name them."""
        shades = {number: _mixed(self.color, "#ffffff", share) for number, share in _TINTS.items()}
        return shades | {500: self.color} | {number: _mixed(self.color, "#000000", share) for number, share in _SHADES.items()}

    def gradio_css(self) -> str:
        """Returns CSS that sets the configured colour in a Gradio page; empty without a configured colour."""
        if not self.customized:
            return ""
        # Gradio 6.31 sets these variables on :root and .dark. The doubled selectors have a higher specificity and win.
        shared = "".join(
            f"--{hue}-{number}: {shade}; " for hue in ("primary", "secondary") for number, shade in self.palette().items()
        )
        shared += (
            f"--button-primary-background-fill: {self.color}; --button-primary-background-fill-hover: {self.color}; "
            f"--button-primary-text-color: {self.text_color}; --checkbox-background-color-selected: {self.control_color};"
        )
        return (
            f":root:root {{ {shared} {_text_variables(self.on_light)} }}\n"
            f":root .dark.dark, :root.dark.dark {{ {shared} {_text_variables(self.on_dark)} }}\n"
        )

    def logo_html(self) -> str:
        """Returns an <img>; empty without a logo. The alt text is empty, because the title stands beside the logo."""
        return "" if self.logo is None else f'<img class="brand-logo" src="{self.logo}" alt="" height="28">'

    def footer_html(self) -> str:
        return f'<div class="brand-footer">{html.escape(self.footer)}</div>' if self.footer else ""


def load_brand(settings: Settings) -> Brand:
    """Returns the configured branding.

    Raises:
        ConfigError: The logo cannot be shown.
    """
    logo = None if settings.brand_logo is None else _logo_data_uri(settings.brand_logo)
    color = settings.brand_color or DEFAULT_COLOR
    footer, customized = settings.brand_footer.strip(), settings.brand_color is not None
    return Brand(settings.title, color.lower(), logo, footer, customized, settings.root_path)


def contrast(one: str, other: str) -> float:
    """Returns WCAG's contrast ratio of two #rrggbb colours, a number from 1 to 21."""
    dark, light = sorted((_luminance(one), _luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def _text_variables(color: str) -> str:
    """The variables of Gradio for text, lines and borders in the accent colour."""
    names = ("color-accent", "slider-color", "button-primary-border-color", "button-primary-border-color-hover", "loader-color")
    links = ("link-text-color", "link-text-color-hover", "link-text-color-active", "link-text-color-visited")
    return " ".join(f"--{name}: {color};" for name in (*names, "input-border-color-focus", *links))


def _mixed(color: str, other: str, share: float) -> str:
    """Returns `color` with a share of `other`, from 0 to 1."""
    pairs = zip(_channels(color), _channels(other), strict=True)
    return "#" + "".join(f"{round(255 * (one + (two - one) * share)):02x}" for one, two in pairs)


def readable(color: str, background: str, darker: bool, minimum: float = MIN_CONTRAST) -> str:
    """Returns the colour, made darker or lighter until it has enough contrast with the background.

    Args:
        color, background: #rrggbb.
        darker: True makes the colour darker, False makes it lighter.
        minimum: the contrast; without it, that of text.
    """
    red, green, blue = _channels(color)
    hue, lightness, saturation = colorsys.rgb_to_hls(red, green, blue)
    while contrast(color, background) < minimum:
        lightness = max(0.0, lightness - 0.01) if darker else min(1.0, lightness + 0.01)
        color = "#" + "".join(f"{round(channel * 255):02x}" for channel in colorsys.hls_to_rgb(hue, lightness, saturation))
    return color


def _channels(color: str) -> tuple[float, float, float]:
    """Returns red, green and blue of #rrggbb, each from 0 to 1."""
    return int(color[1:3], 16) / 255, int(color[3:5], 16) / 255, int(color[5:7], 16) / 255


def _luminance(color: str) -> float:
    """Returns WCAG 2.2's "relative luminance" of #rrggbb, from 0 for black to 1 for white."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in _channels(color)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _svg_data_uri(data: bytes) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(data).decode("ascii")


def _logo_data_uri(path: Path) -> str:
    """Checks the logo and returns it as a data: URI.

    An SVG is not changed: a browser runs no scripts of an SVG in an <img> and loads no files for it. An image of another format
    becomes a PNG without metadata.
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
        return _svg_data_uri(data)
    try:
        load_image(data, path.name)  # only a check: the RGB image that it returns has lost the transparency
        from PIL import Image

        image = Image.open(io.BytesIO(data)).convert("RGBA")
    except ImageError as error:
        raise ConfigError(f"brand_logo {path} cannot be shown: {error}") from None
    image.thumbnail(_MAX_LOGO_PIXELS)
    png = io.BytesIO()
    image.save(png, "PNG")
    return "data:image/png;base64," + base64.b64encode(png.getvalue()).decode("ascii")
