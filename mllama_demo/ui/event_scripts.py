"""The JavaScript that events of the page run in the browser. The scripts that run from the start are in static/."""

from __future__ import annotations

# Argument: the conversation's id. The address names the conversation, so that a reload, a bookmark or a second tab opens it.
REMEMBER_IN_ADDRESS = "(id) => window.mllamaShowConversation?.(id)"
SHOW_TITLE = "(title) => window.mllamaShowTitle?.(title)"
OPEN_SHARE_DIALOG = "() => window.mllamaOpenShareDialog()"
# Arguments: the value of the question field, and the conversation's id. The result changes when files are added or removed, or
# come into another conversation; it does not change with the text.
ATTACHED_FILES = """(value, id) => {
  window.mllamaAttached = value?.files ?? [];
  const files = window.mllamaAttached.map((file) => file.path ?? file.url);
  return files.length ? JSON.stringify([id, ...files]) : "";
}"""
# Argument and result: the value of the question field.
RESTORE_DRAFT = "(value) => window.mllamaRestoreDraft?.(value) ?? value"
CLOSE_PAGE_DIALOGS = "() => window.mllamaClosePageDialogs()"
# Argument: the file that was fetched; null when there is none.
CLOSE_IF_FETCHED = "(file) => file && window.mllamaClosePageDialogs()"
# Argument: three words with a space between them: the page's id; "remembered", or "forgotten" in a browser without cookies; and,
# on a kiosk, the idle seconds after which it is reset.
START_SESSION = "(session) => window.mllamaStartSession(...session.split(' '))"
OPEN_TILE_DIALOG = "(html) => window.mllamaOpenTileDialog(html)"
# Argument: a time, which makes each value another one, a space, and why the edited question is refused.
REFUSE_EDIT = "(refusal) => window.mllamaRefuseEdit(refusal.replace(/^\\d+ /, ''))"
# The sampling values that this browser keeps, as JSON; empty when there are none.
STORED_VALUES = "() => window.mllamaStoredValues()"
