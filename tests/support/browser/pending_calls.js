// The record of what this page asks of the server's queue and what was answered, for pages.settled.
// Not the requests themselves: the stream of answers may end just as something is asked, and a new one may stay open although
// everything is answered.
(() => {
  const COMPLETED = /^data: \{"msg":"process_completed","event_id":"(\w+)"/;
  const send = window.fetch;
  const asked = new Set();
  const answered = new Set();
  let joins = 0;
  let joining = 0;
  let streams = 0;

  async function join(args) {
    joins++;
    joining++;
    try {
      const response = await send(...args);
      const { event_id } = await response.clone().json();
      if (event_id) asked.add(event_id); // a refused one gets none
      return response;
    } finally {
      joining--;
    }
  }

  // An event that does not go through the queue.
  async function run(args) {
    joins++;
    joining++;
    try {
      const response = await send(...args);
      await response.clone().text();
      return response;
    } finally {
      joining--;
    }
  }

  // Sees each piece before the page does: of a copy the rest would be lost when the page hangs up.
  function seen(response) {
    streams++;
    const decoder = new TextDecoder();
    let rest = "";
    const look = new TransformStream({
      transform(piece, out) {
        const lines = (rest + decoder.decode(piece, { stream: true })).split("\n");
        rest = lines.pop();
        for (const line of lines) {
          const id = COMPLETED.exec(line)?.[1];
          if (id) answered.add(id);
        }
        out.enqueue(piece);
      },
    });
    response.body.pipeTo(look.writable).catch(() => {}).finally(() => streams--); // it fails when the page hangs up
    return new Response(look.readable, response);
  }

  window.fetch = async (...args) => {
    const path = new URL(args[0].url ?? args[0], location.href).pathname;
    if (path.endsWith("/queue/join")) return join(args);
    if (path.includes("/run/")) return run(args);
    const response = await send(...args);
    return path.endsWith("/queue/data") ? seen(response) : response;
  };

  const page = String(Math.random());
  window.calls = {
    // What is asked after this, on this page or on one loaded instead of it, is what settled is about.
    now: () => ({ page, joins }),
    // True once something was asked since then, all is answered, and the page's next turn asks nothing more.
    settled: async (since) => {
      const waiting = [...asked].filter((id) => !answered.has(id));
      const before = joins;
      if (joining || waiting.length || joins === (since?.page === page ? since.joins : 0)) return false;
      await new Promise((done) => setTimeout(done, 50));
      return joins === before;
    },
    inWords: () => `${joins} asked, ${joining} without a number, ${answered.size} of ${asked.size} answered, ${streams} streams`,
  };
})();
