// Requests that the stage and the rehearsal page send: the server answers with one event a line.
import { errorMessage, readNdjson } from "../../web/static/ndjson.js";

// Yields the events. Throws an Error with a message for people. Its `status` is that of the error, undefined without a server; its
// `cause` is for the operator, undefined for a person who may not read it.
// body: an object to send as JSON; without one nothing is sent.
export async function* events(address, signal, body) {
  const failed = (message) => (error) => {
    throw signal.aborted ? error : new Error(message);
  };
  const json = body && { headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const response = await fetch(address, { method: "POST", signal, ...json }).catch(failed("the server cannot be reached."));
  if (!response.ok) {
    const body = await response.clone().json().catch(() => ({}));
    throw Object.assign(new Error(await errorMessage(response)), { status: response.status, cause: body.error?.cause });
  }
  const lines = readNdjson(response);
  for (;;) {
    const { value: event, done } = await lines.next().catch(failed("the connection to the server broke off."));
    if (done) return;
    if (event.error) throw Object.assign(new Error(event.error), { status: event.status, cause: event.cause });
    yield event;
  }
}
