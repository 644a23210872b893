"""The look of the page: a Gradio theme with system fonts, and the style sheets and scripts that are joined into it."""

from __future__ import annotations

from pathlib import Path

from gradio.themes import Base, Default
from gradio.themes.utils.sizes import Size, radius_lg

from mllama_demo.ui.gradio_patches import hidden_components, live_answer

FONTS = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "Liberation Mono", "monospace")


def _read(*names: str) -> str:
    folder = Path(__file__).resolve().parent
    return "\n".join((folder / name).read_text(encoding="utf-8") for name in names)


PATCH_STYLES = tuple(f"gradio_patches/{name}.css" for name in ("media_rules", "chatbot_buttons", "placeholder_height"))
PATCH_SCRIPTS = tuple(
    f"gradio_patches/{name}.js"
    for name in ("page_close", "question_draft", "accessible_names", "links_in_messages", "camera_stream", "listbox_keys")
)
CSS = _read(
    "static/chat.css",
    "../web/static/rendered_text.css",
    "static/messages.css",
    "static/kiosk.css",
    *PATCH_STYLES,
)
CSS += hidden_components.CSS + live_answer.CSS
# One script, because its parts share one scope; chat.js comes first.
PAGE_SCRIPT = _read(
    "../web/static/pictures.js",
    "../web/static/wake_lock.js",
    "static/chat.js",
    "static/connection.js",
    "static/autoscroll.js",
    "static/conversations.js",
    "static/messages.js",
    "static/question_editor.js",
    "static/attachments.js",
    "static/page_dialogs.js",
    "static/kiosk.js",
    "static/sidebars.js",
    "static/keys.js",
    *PATCH_SCRIPTS,
)
# In the served HTML, so that the scripts run before Gradio's.
HEAD_SCRIPTS = (
    "static/storage.js",
    "../web/static/clipboard.js",
    *(f"gradio_patches/{name}.js" for name in ("page_root", "language", "sse_stream", "status_timer")),
    "static/chat_head.js",
    "static/sampling_values.js",
)
# Also there: gradio_patches/media_rules.css says what Gradio does to @media.
MEDIA_STYLES = ("static/print.css", "static/forced_colors.css")
HEAD = f"<style>{_read(*MEDIA_STYLES)}</style><script>{_read(*HEAD_SCRIPTS)}</script>"
# Gradio's own sizes, in rem: gradio_patches/media_rules.css makes the root larger on large screens.
TEXT = Size(name="text_rem", xxs=".7rem", xs=".75rem", sm=".85rem", md=".95rem", lg="1.0625rem", xl="1.375rem", xxl="1.625rem")


def make_theme() -> Base:
    """A theme whose secondary text is dark enough for a projector (WCAG AA in light and dark)."""
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
