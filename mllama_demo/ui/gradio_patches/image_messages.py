"""Images in chatbot messages, in the form in which the chatbot sends them to the browser.

Gradio: 6.31.0
Defect: only an image that is a component has an alternative text in the chatbot. Given a gr.Image, the chatbot builds it
  again and copies its file in each of the twelve updates a second; a file that is marked as Gradio's is looked for on the
  disk each time.
Report: https://github.com/gradio-app/gradio/pull/13676
Test: tests/unit/ui/test_gradio_patches.py::test_an_image_message_is_sent_as_it_is_and_copies_no_file
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import gradio as gr
from gradio.components.chatbot import ComponentMessage

# Made when the module is imported: while Gradio handles an event, a new component would be an update.
_PROPS = gr.Image(render=False, show_label=False, format="webp").get_config()


def image_message(path: str, alt_text: str) -> ComponentMessage:
    """The content of a message. path: a WebP file in a folder that the page may load from."""
    value = {"path": path, "url": f"gradio_api/file={quote(path)}", "orig_name": Path(path).name, "mime_type": "image/webp"}
    return ComponentMessage(component="image", value=value, constructor_args={}, props={**_PROPS, "alt_text": alt_text})
