// A page hears all its answers on one stream. The server ends it once everything is answered; Gradio's client then hangs up, and
// opens another with the next event. An event whose number arrives just before that end counts on a stream that says no more: its
// answer stays unheard until something else is asked. So here a stream goes on while an answer is missing, and a number is handed
// over only when a stream that ends has been hung up. Runs in the page's head, before anything is asked.
(() => {
  const COMPLETED = /^data: \{"msg":"process_completed","event_id":"(\w+)"/;
  const END = /^data: \{"msg":"close_stream"/;
  const send = window.fetch;
  const unanswered = new Set();
  const early = new Set(); // answered before the page had the number
  let hangingUp = null; // until Gradio has hung up on a stream that ends

  async function ask(args) {
    const response = await send(...args);
    const id = response.ok && (await response.clone().json()).event_id;
    while (hangingUp) await hangingUp;
    if (id && !early.delete(id)) unanswered.add(id);
    return response;
  }

  async function listen(args) {
    const first = await send(...args);
    if (!first.ok) return first;
    const { signal } = args[0];
    const hungUp = new Promise((done) => signal.addEventListener("abort", done, { once: true }));
    hungUp.then(() => {
      unanswered.clear();
      hangingUp = null;
    });
    let reader, decoder, rest;
    const read = (response) => ([reader, decoder, rest] = [response.body.getReader(), new TextDecoder(), ""]);

    // Whole messages until there is one to pass on, or the stream ends.
    async function next(out) {
      for (let passed = false; !passed; ) {
        const { done, value } = await reader.read();
        if (done) return out.close();
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
            hangingUp = hungUp;
            return out.close();
          }
        }
      }
    }

    read(first);
    const stream = new ReadableStream({
      pull: (out) =>
        next(out).catch((error) => {
          if (!signal.aborted) unanswered.clear(); // Gradio gives them up
          throw error;
        }),
      cancel: (reason) => reader.cancel(reason),
    });
    return new Response(stream, first);
  }

  window.fetch = (...args) => {
    const path = new URL(args[0].url ?? args[0], location.href).pathname;
    if (path.endsWith("/queue/join")) return ask(args);
    return path.endsWith("/queue/data") ? listen(args) : send(...args);
  };
})();
