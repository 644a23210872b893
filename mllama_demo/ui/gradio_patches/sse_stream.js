// A page hears all its answers on one stream. The server ends it once everything is answered; Gradio's client then hangs up, and
// opens another with the next event. What is said together may arrive apart, so that an event's number comes
// - just before that end: the event counts on a stream that says no more, and its answer stays unheard until more is asked. So a
//   stream goes on while an answer is missing, and a number is handed over only once a stream that ends has been hung up;
// - after its answer and that end: a stream is opened for it, on one of the six connections a browser has, and stays open until
//   more is asked. So where nothing is left to be said, a stream ends at once.
// Gradio's own script runs this before anything is asked.
(() => {
  const COMPLETED = /^data: \{"msg":"process_completed","event_id":"(\w+)"/;
  const END = /^data: \{"msg":"close_stream"/;
  const HANG_UP_MS = 500; // Gradio may hang up on another stream instead: the progress of an upload takes the place of this one
  const NOTHING = 'data: {"msg":"close_stream"}\n\n';
  const send = window.fetch;
  const unanswered = new Set();
  const early = new Set(); // answered before the page had the number
  let hangingUp = null; // until Gradio has hung up on a stream that ends

  async function ask(args) {
    const response = await send(...args);
    const { event_id: id } = response.ok ? await response.clone().json().catch(() => ({})) : {};
    while (hangingUp) await hangingUp;
    if (id && !early.delete(id)) unanswered.add(id);
    return response;
  }

  async function listen(args) {
    if (!unanswered.size) return new Response(NOTHING, { headers: { "Content-Type": "text/event-stream" } });
    const first = await send(...args);
    if (!first.ok) return first;
    let reader, decoder, rest;
    const read = (response) => ([reader, decoder, rest] = [response.body.getReader(), new TextDecoder(), ""]);

    // Whole messages until there is one to pass on, or the stream ends.
    async function pull(out) {
      for (let passed = false; !passed; ) {
        const { done, value } = await reader.read();
        if (done) throw new TypeError("the stream of answers has broken off"); // for Gradio a lost connection, else it would wait on
        const messages = (rest + decoder.decode(value, { stream: true })).split("\n\n");
        rest = messages.pop();
        for (const message of messages) {
          const id = COMPLETED.exec(message)?.[1];
          if (id && !unanswered.delete(id)) early.add(id);
          const end = END.test(message);
          if (end && unanswered.size) {
            read(await send(...args));
            break;
          }
          out.enqueue(new TextEncoder().encode(`${message}\n\n`));
          passed = true;
          if (end) {
            hangingUp = new Promise((hungUp) => {
              args[0].signal.addEventListener("abort", hungUp, { once: true });
              setTimeout(hungUp, HANG_UP_MS);
            });
            hangingUp.then(() => (hangingUp = null));
            return out.close();
          }
        }
      }
    }

    read(first);
    return new Response(new ReadableStream({ pull, cancel: (reason) => reader.cancel(reason) }), first);
  }

  window.fetch = async (...args) => {
    const path = new URL(args[0].url ?? args[0], location.href).pathname;
    if (path.endsWith("/queue/join")) return ask(args);
    return path.endsWith("/queue/data") ? listen(args) : send(...args);
  };
})();
