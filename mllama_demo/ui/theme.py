"""How the demo looks: one Gradio theme from system fonts, and the few rules that Gradio has no setting for."""

from __future__ import annotations

from gradio.themes import Base, Default

FONTS = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "Liberation Mono", "monospace")

CSS = """
footer { display: none !important; }

/* The conversation takes the height that is left, the question stays in reach. */
.gradio-container > .main { box-sizing: border-box; height: 100dvh; min-height: 0; padding-block: .75rem !important; }
.gradio-container > .main > .wrap, main.contain { box-sizing: border-box; height: 100%; min-height: 0; }
.gradio-container > .main > .wrap, main.contain { padding-block: 0 !important; }
main.contain > .column { height: 100%; flex-wrap: nowrap; gap: .75rem; }
#chat-history { flex: 1 1 0 !important; min-height: 220px !important; border-width: 0 !important; }
#ask { flex: none; flex-wrap: nowrap; align-items: center; }
#stop { flex: none; }
/* Its box keeps the height that a wrapped placeholder once needed. */
#chat-input textarea::placeholder { white-space: nowrap; }

#masthead h1 { font-size: 1.3rem; margin: 0; }
#masthead p { margin: .1rem 0 0; font-size: .9rem; color: var(--body-text-color-subdued); }
.status { display: flex; gap: .5rem; font-size: .85rem; color: var(--body-text-color-subdued); }
.status .dot { flex: none; width: .6rem; height: .6rem; margin-top: .35rem; border-radius: 50%; background: #2f9e44; }
.status.busy .dot, .status.loading .dot { background: #f08c00; }
.status.loading .dot { animation: pulse 1.2s ease-in-out infinite; }
.status.down .dot { background: #e03131; }
@keyframes pulse { 50% { opacity: .25; } }
@media (prefers-reduced-motion: reduce) { .status.loading .dot { animation: none; } }

#chat-history .message-wrap > .message-row:first-child { margin-top: 2.2rem; }
#chat-history .facts { font-size: .8rem; line-height: 1.45; color: var(--body-text-color); opacity: .9; }
#chat-history .progress { color: var(--body-text-color-subdued); font-style: italic; }
#chat-history .image-frame img { max-height: 260px; width: auto; border-radius: .5rem; }
/* A picture's share button would upload it to a public host. */
#chat-history button[aria-label="Share"] { display: none !important; }
#chat-history .placeholder-content { justify-content: flex-start; padding-top: .5rem; }
#chat-history .placeholder { flex: none; height: auto; margin: 0; }
#chat-history .example { min-height: 0; padding: .6rem .8rem; }
#chat-history .example-content { flex-direction: row; align-items: center; gap: .7rem; }

#conversations .wrap { flex-direction: column; flex-wrap: nowrap; gap: .1rem; }
#conversations label { width: 100%; padding: .45rem .6rem; border-radius: .5rem; }
#conversations label { border: none; box-shadow: none; background: transparent; }
#conversations label:hover { background: var(--background-fill-secondary); }
#conversations label.selected { background: var(--color-accent-soft); }
#conversations label input { position: absolute; opacity: 0; }
#conversations label:has(input:focus-visible) { outline: 2px solid var(--color-accent); }
#conversations label span { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; margin: 0; }

#settings .min_value, #settings .max_value { color: var(--body-text-color-subdued); }
#settings h3 { margin: .1rem 0 0; }

@media (max-width: 640px) {
  #masthead p { font-size: .8rem; line-height: 1.35; }
  .gradio-container.gradio-container > .main.fillable.app { padding: .5rem !important; }
  .gradio-container > .main > .wrap, main.contain { padding-inline: 0 !important; }
  #masthead { padding-inline: 2.2rem; }
}
"""


def make_theme() -> Base:
    """Calm and roomy; secondary text dark enough to read on a projector (WCAG AA in light and dark)."""
    return Default(primary_hue="orange", neutral_hue="stone", font=FONTS, font_mono=MONO).set(
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
