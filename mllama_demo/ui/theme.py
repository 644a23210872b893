"""How the demo looks: one Gradio theme from system fonts, and the few rules that Gradio has no setting for."""

from __future__ import annotations

import gradio as gr

FONTS = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "Liberation Mono", "monospace")

CSS = """
.gradio-container { max-width: 1400px !important; margin: 0 auto !important; }
#masthead h1 { font-size: 1.35rem; margin: 0; }
#masthead p { margin: .15rem 0 0; color: var(--body-text-color-subdued); }
.status { display: flex; gap: .5rem; align-items: baseline; font-size: .875rem; color: var(--body-text-color-subdued); }
.status .dot { flex: none; width: .6rem; height: .6rem; border-radius: 50%; background: #2f9e44; align-self: center; }
.status.loading .dot { background: #f08c00; animation: pulse 1.2s ease-in-out infinite; }
.status.down .dot { background: #e03131; }
@keyframes pulse { 50% { opacity: .25; } }
@media (prefers-reduced-motion: reduce) { .status.loading .dot { animation: none; } }
#chat-history { border: none; }
#chat-history .facts { font-size: .8rem; line-height: 1.4; color: var(--body-text-color-subdued); }
#chat-history .progress { color: var(--body-text-color-subdued); font-style: italic; }
#chat-history img { max-height: 280px; width: auto; border-radius: .5rem; }
#conversations .wrap { flex-direction: column; gap: .15rem; }
#conversations label { width: 100%; border: none; background: transparent; padding: .45rem .6rem; border-radius: .5rem; }
#conversations label:hover { background: var(--background-fill-secondary); }
#conversations label.selected { background: var(--color-accent-soft); }
#conversations label input { position: absolute; opacity: 0; }
#conversations label:has(input:focus-visible) { outline: 2px solid var(--color-accent); }
#conversations label span { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; margin: 0; }
/* A picture's share button would upload it to a public host. */
#chat-history button[aria-label="Share"], button[title="Share"] { display: none !important; }
"""


def make_theme() -> gr.themes.Base:
    """Calm and roomy; colours that pass WCAG AA in light and dark."""
    return gr.themes.Soft(primary_hue="orange", neutral_hue="stone", font=FONTS, font_mono=MONO)
