// Makes sure that a page receives the answer of every event, and that no event stream stays open after the last answer.
//
// Gradio: 6.31.0
// Defect: a page receives the answers of all its events on one stream (queue/data). When every event is answered the server sends
//   close_stream, and Gradio's client closes the stream; the next event opens another. On a slow network the response to
//   queue/join, which has the event's id, can arrive
//   - just before close_stream: the client expects the answer on a stream that ends, and the answer is not received until the next
//     event. So this patch goes on with a new stream while an answer is missing, and delays the response of queue/join while the
//     client closes a stream;
//   - after the event's answer and close_stream: the client opens a stream for an answer that it has had already, and the stream
//     holds one of the browser's six connections until the next event. So this patch ends such a stream at once.
// Report: no upstream report known
// Test: tests/browser/ui/test_sse_stream.py::test_an_event_sent_while_a_stream_ends_is_answered
//
// The script stands in the head of the page: it runs before Gradio's client sends anything.
(() => {
  const COMPLETED = /^data: \{"msg":"process_completed","event_id":"(\w+)"/;
  const CLOSE_STREAM = /^data: \{"msg":"close_stream"/;
  const EMPTY_STREAM = 'data: {"msg":"close_stream"}\n\n';
  const CLOSE_TIMEOUT_MS = 500; // the client may close another stream instead: the progress of an upload replaces this one
  const originalFetch = window.fetch;
  const unanswered = new Set(); // ids of events
  const answeredEarly = new Set(); // answered before the response to queue/join had arrived
  let closing = null; // a promise, until the client has closed the stream that ends

  async function join(args) {
    const response = await originalFetch(...args);
    const { event_id: id } = response.ok ? await response.clone().json().catch(() => ({})) : {};
    while (closing) await closing;
    if (id && !answeredEarly.delete(id)) unanswered.add(id);
    return response;
  }

  async function openStream(args) {
    if (!unanswered.size) return new Response(EMPTY_STREAM, { headers: { "Content-Type": "text/event-stream" } });
    const first = await originalFetch(...args);
    if (!first.ok) return first;
    let reader, decoder, rest;
    const readFrom = (response) => ([reader, decoder, rest] = [response.body.getReader(), new TextDecoder(), ""]);

    // Reads until there is a whole message to pass on, or the stream ends.
    async function pull(out) {
      for (let passed = false; !passed; ) {
        const { done, value } = await reader.read();
        // Gradio's client takes an error for a lost connection. After a regular end it would wait for ever.
        if (done) throw new TypeError("the stream of answers has broken off");
        const messages = (rest + decoder.decode(value, { stream: true })).split("\n\n");
        rest = messages.pop();
        for (const message of messages) {
          const id = COMPLETED.exec(message)?.[1];
          if (id && !unanswered.delete(id)) answeredEarly.add(id);
          const ends = CLOSE_STREAM.test(message);
          if (ends && unanswered.size) {
            readFrom(await originalFetch(...args));
            break;
          }
          out.enqueue(new TextEncoder().encode(`${message}\n\n`));
          passed = true;
          if (ends) {
            closing = new Promise((closed) => {
              args[0].signal.addEventListener("abort", closed, { once: true });
              setTimeout(closed, CLOSE_TIMEOUT_MS);
            });
            closing.then(() => (closing = null));
            return out.close();
          }
        }
      }
    }

    readFrom(first);
    return new Response(new ReadableStream({ pull, cancel: (reason) => reader.cancel(reason) }), first);
  }

  window.fetch = async (...args) => {
    const path = new URL(args[0].url ?? args[0], location.href).pathname;
    if (path.endsWith("/queue/join")) return join(args);
    return path.endsWith("/queue/data") ? openStream(args) : originalFetch(...args);
  };
})();
