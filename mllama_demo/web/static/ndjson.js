// Newline-delimited JSON from the server, for the Explore page and present mode.

// Yields each object of a response as it arrives. Throws what response.body throws when the connection breaks.
export async function* readNdjson(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) yield JSON.parse(line);
  }
}

// The message of an error response. This server sends JSON; a proxy in front of it may not.
export async function errorMessage(response) {
  const body = await response.json().catch(() => ({}));
  return body.error?.message ?? body.detail ?? body.reason ?? `The server answered with status ${response.status}.`;
}
