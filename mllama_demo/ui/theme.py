"""How the demo looks: one Gradio theme from system fonts, and the few rules and scripts that Gradio has no setting for."""

from __future__ import annotations

from pathlib import Path

from gradio.themes import Base, Default
from gradio.themes.utils.sizes import Size, radius_lg

FONTS = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "Liberation Mono", "monospace")

STATIC = Path(__file__).resolve().parent / "static"
GRADIO_PATCHES = Path(__file__).resolve().parent / "gradio_patches"
CSS = (STATIC / "chat.css").read_text(encoding="utf-8")
PAGE_SCRIPT = "".join((STATIC / name).read_text(encoding="utf-8") for name in ("chat.js", "autoscroll.js", "kiosk.js", "keys.js"))
HEAD = f"<script>{(GRADIO_PATCHES / 'sse_stream.js').read_text(encoding='utf-8')}</script>"
# Gradio's own steps, in rem: chat.css makes the root larger on large screens.
TEXT = Size(name="text_rem", xxs=".7rem", xs=".75rem", sm=".85rem", md=".95rem", lg="1.0625rem", xl="1.375rem", xxl="1.625rem")


def make_theme() -> Base:
    """Calm and roomy; secondary text dark enough to read on a projector (WCAG AA in light and dark)."""
    return Default(
        primary_hue="orange", neutral_hue="stone", text_size=TEXT, radius_size=radius_lg, font=FONTS, font_mono=MONO
    ).set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        block_title_text_color="*neutral_800",
        block_title_text_color_dark="*neutral_100",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        slider_color="*primary_600",
        button_cancel_background_fill="#b91c1c",
        button_cancel_background_fill_hover="#991b1b",
        button_cancel_background_fill_dark="#b91c1c",
        button_cancel_background_fill_hover_dark="#991b1b",
    )


# Side panels stand open where there is room for them and are drawers elsewhere.
OPEN_SIDEBARS_ON_WIDE_SCREENS = """() => {
  if (window.innerWidth >= 1100)
    document.querySelectorAll(".sidebar:not(.open) .toggle-button").forEach((button) => button.click());
}"""
