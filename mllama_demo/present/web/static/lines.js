// What the pages of present mode share: asking the server for something that comes line by line, and saying why it did not.

// The events of an answer in lines of JSON. Throws an Error with a sentence for people; status: the server's, if it refused.
export async function* events(address, signal) {
  let response;
  try {
    response = await fetch(address, { method: "POST", signal });
  } catch (error) {
    throw signal.aborted ? error : new Error("the server cannot be reached.");
  }
  if (!response.ok) throw Object.assign(new Error(await refusal(response)), { status: response.status });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    let part;
    try {
      part = await reader.read();
    } catch (error) {
      throw signal.aborted ? error : new Error("the connection to the server broke off.");
    }
    if (part.done) return;
    const lines = (rest + part.value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      const event = JSON.parse(line);
      if (event.error) throw new Error(event.error);
      yield event;
    }
  }
}

// Our own servers answer with JSON; one in front of them may not.
async function refusal(response) {
  const told = await response.json().catch(() => ({}));
  return told.error?.message ?? told.detail ?? told.reason ?? `the server answers with the status ${response.status}.`;
}
