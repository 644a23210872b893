"""Adds a file to those in the question field, in the browser.

Gradio: 6.31.0
Defect: a file from another component has no MIME type, and a MultimodalTextbox shows it as a document instead of an image. A
  value that a script sets fires no `change` event of the MultimodalTextbox: the page must report the attached files itself.
Report: no upstream report known
Test: tests/browser/ui/test_chat.py::test_a_photo_from_the_camera_is_added_to_the_typed_text_and_the_attached_files
"""

# Arguments: a file, and the value of the question field. Returns the new value.
ATTACH_FILE = """(file, value) => {
  if (!file) return value;
  return { text: value?.text ?? "", files: [...(value?.files ?? []), { ...file, mime_type: file.mime_type || "image/*" }] };
}"""
