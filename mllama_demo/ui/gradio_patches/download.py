"""Downloads a file that is made when the visitor asks for it.

Gradio: 6.31.0
Defect: gr.DownloadButton downloads the file that it has when it is clicked; it cannot download one that its handler makes.
Report: https://github.com/gradio-app/gradio/issues/9230
Test: tests/browser/ui/test_conversations.py::test_a_conversation_is_exported_in_three_formats_and_imported_again
"""

# Argument: the value of a hidden gr.File.
DOWNLOAD = """(file) => {
  if (!file) return;
  const link = document.createElement("a");
  link.href = file.url; link.download = file.orig_name;
  document.body.append(link); link.click(); link.remove();
}"""
