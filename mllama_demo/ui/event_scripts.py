"""What events of the page run in the browser, besides the scripts that are there from the beginning (theme.py)."""

from __future__ import annotations

# The address bar names the conversation, so that a reload, a bookmark or a second tab finds it.
REMEMBER_IN_ADDRESS = """(id) => {
  const url = new URL(window.location);
  if (id) url.searchParams.set("c", id); else url.searchParams.delete("c");
  window.history.replaceState(null, "", url);
  window.mllamaToEnd?.();
}"""
# Changes only when files come or go, or go along to another conversation: not at every letter, nor for questions without.
ATTACHED = """(value, id) => {
  const files = (value?.files ?? []).map((file) => file.path ?? file.url);
  return files.length ? JSON.stringify([id, ...files]) : "";
}"""
# Beside what was typed and attached while the file came. Without a type it would be shown as a file of another kind.
ATTACH = """(file, value) => {
  if (!file) return value;
  return { text: value?.text ?? "", files: [...(value?.files ?? []), { ...file, mime_type: file.mime_type || "image/*" }] };
}"""
BEHIND = "() => window.mllamaBehind?.() ?? 0"  # milliseconds
BEAT = "() => { window.mllamaBeat = Date.now(); }"
# Session and, on a kiosk, its idle seconds: see chat.js.
ARRIVED = "(told) => window.mllamaArrived(...told.split(' '))"
CLOSEUP = "(html) => window.mllamaCloseup(html)"
