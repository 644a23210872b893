// Plays a scenario: one step at a time, asked live, and from its recording, labelled as such, when the model fails.
const page = document.body.dataset;
const at = (id) => document.getElementById(id);
const channel = new BroadcastChannel(`mllama-present-${page.name}`);
const FIRST_SIGN_MS = 20000; // without a sign of life for this long, a stage cannot wait any more
const RECORDED_CHUNK_MS = 60;

function clockFrom(since) {
  const seconds = since ? Math.floor((Date.now() - since) / 1000) : 0;
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
}

function keys(act) {
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const name = { ArrowRight: "next", PageDown: "next", " ": "next", ArrowLeft: "back", PageUp: "back",
      n: "notes", f: "full", r: "again" }[event.key];
    if (!name || (event.key === " " && event.target.closest("button, a"))) return;
    event.preventDefault();
    act(name);
  });
}

async function stage() {
  const base = `${page.base}${page.name}`;
  const script = await (await fetch(`${base}/scenario.json`)).json();
  const steps = script.steps.map((step) => ({ ...step, text: "", phase: "new", label: "", trouble: "", figures: "" }));
  // Pictures and recordings are here before the network can fail.
  for (const step of steps) if (step.image) { step.picture = new Image(); step.picture.src = page.base + step.image; }
  at("rehearsed").textContent = script.sentence;
  at("rehearsed").classList.add(script.rehearsed);
  let place = Math.min(Math.max(Number(location.hash.slice(1)) || 1, 1), steps.length) - 1;
  let began = 0;
  let asking = null;

  function show() {
    const step = steps[place];
    at("step-title").textContent = step.title;
    at("prompt").textContent = step.prompt;
    at("figure").hidden = !step.image;
    if (step.image && at("picture").getAttribute("src") !== page.base + step.image) at("picture").src = page.base + step.image;
    at("picture").alt = step.image ? "The picture that the model sees" : "";
    at("answer").textContent = step.text;
    at("answer").classList.toggle("writing", step.phase === "busy");
    at("answer").setAttribute("aria-busy", step.phase === "busy");
    at("recorded").hidden = !step.label;
    at("recorded").textContent = step.label;
    at("trouble").hidden = !step.trouble;
    at("trouble").textContent = step.trouble;
    at("parameters").textContent = step.parameters;
    at("figures").textContent = step.figures;
    at("place").textContent = `${place + 1} / ${steps.length}`;
    at("back").disabled = place === 0;
    at("next").disabled = place === steps.length - 1 && step.phase === "done";
    document.body.dataset.phase = step.phase;
    tell();
  }

  function tell() {
    const step = steps[place];
    channel.postMessage({ kind: "at", place, total: steps.length, prompt: step.prompt, notes: step.notes, began,
      coming: steps[place + 1]?.prompt ?? "The end.", state: step.label || { new: "not asked yet", busy: "answering" }[step.phase] || "" });
  }

  function stop() {
    asking?.abort();
    asking = null;
  }

  async function ask() {
    stop();
    began ||= Date.now();
    const mine = (asking = new AbortController());
    const index = place;
    const step = steps[index];
    Object.assign(step, { text: "", phase: "busy", label: "", trouble: "", figures: "" });
    show();
    const patience = setTimeout(() => mine.abort("silence"), FIRST_SIGN_MS);
    const redraw = () => index === place && show();
    try {
      const response = await fetch(`${base}/steps/${index + 1}/${page.run}`, { method: "POST", signal: mine.signal });
      if (!response.ok) throw new Error((await response.json()).error?.message ?? `The server says ${response.status}.`);
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "", done = false;
      for (;;) {
        const part = await reader.read();
        if (part.done) break;
        const lines = (rest + part.value).split("\n");
        rest = lines.pop();
        for (const line of lines) {
          const event = JSON.parse(line);
          if (event.error) throw new Error(event.error);
          if (event.phase !== "waiting" ) clearTimeout(patience);
          step.text += event.text;
          step.figures = event.position ? `number ${event.position} in line` : "";
          if (event.done) {
            done = true;
            const { tokens, total_s, tokens_per_second } = event.done;
            step.figures = `${tokens} tokens in ${total_s.toFixed(1)} s` + (tokens_per_second ? ` · ${tokens_per_second.toFixed(0)} tokens/s` : "");
          }
        }
        redraw();
      }
      if (!done) throw new Error("The connection ended before the answer did.");
      step.phase = "done";
    } catch (error) {
      if (mine.signal.aborted && mine.signal.reason !== "silence") {
        // Somebody went on: what was written stays, and is asked anew when wanted.
        step.phase = step.text ? "done" : "new";
      } else {
        await fallBack(step, mine, error === "silence" ? "The model did not answer in time." : error.message, redraw);
      }
    } finally {
      clearTimeout(patience);
      if (asking === mine) asking = null;
    }
    redraw();
  }

  // The recorded answer, never without its label: the label stands before the first word does.
  async function fallBack(step, mine, why, redraw) {
    if (!step.recorded) {
      Object.assign(step, { phase: "done", trouble: `No live answer: ${why} There is no recording of this step.` });
      return;
    }
    const { text, date, model } = step.recorded;
    step.text = "";
    step.figures = "";
    step.label = `Recorded on ${date} · ${model}`;
    console.info(`Recorded answer, since the live one failed: ${why}`);
    for (const word of text.match(/\S+\s*/g) ?? []) {
      if (asking !== mine) break;
      step.text += word;
      redraw();
      await new Promise((go) => setTimeout(go, RECORDED_CHUNK_MS));
    }
    step.text = text;
    step.phase = "done";
  }

  function move(by) {
    const to = place + by;
    if (to < 0 || to >= steps.length) return;
    stop();
    place = to;
    history.replaceState(null, "", `#${place + 1}`);
    show();
  }

  function act(name) {
    if (name === "next") steps[place].phase === "new" ? ask() : move(1);
    if (name === "back") move(-1);
    if (name === "again") ask();
    if (name === "notes") open(`${page.name}/notes`, `notes-${page.name}`, "width=720,height=560");
    if (name === "full") document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen();
  }

  async function health() {
    try {
      const told = await (await fetch(`${page.base}../health`)).json();
      at("state").textContent = told.status === "ready" ? "Ready" : `Not ready: ${told.reason}`;
      at("state").className = told.status === "ready" ? "ready" : "away";
    } catch {
      at("state").textContent = "Not ready: the server cannot be reached";
      at("state").className = "away";
    }
  }

  channel.onmessage = ({ data }) => (data.kind === "act" ? act(data.name) : data.kind === "hello" && tell());
  keys(act);
  for (const [id, name] of [["next", "next"], ["back", "back"], ["open-notes", "notes"], ["full", "full"]]) {
    at(id).addEventListener("click", () => act(name));
  }
  setInterval(() => (at("clock").textContent = clockFrom(began)), 500);
  setInterval(health, 5000);
  health();
  show();
}

function notes() {
  let began = 0;
  channel.onmessage = ({ data }) => {
    if (data.kind !== "at") return;
    began = data.began;
    at("place").textContent = `${data.place + 1} / ${data.total}`;
    at("prompt").textContent = data.prompt;
    at("notes").textContent = data.notes || "No notes for this step.";
    at("coming").textContent = data.coming;
    at("state").textContent = data.state;
  };
  const send = (name) => channel.postMessage({ kind: "act", name });
  keys((name) => ["next", "back", "again"].includes(name) && send(name));
  at("next").addEventListener("click", () => send("next"));
  at("back").addEventListener("click", () => send("back"));
  setInterval(() => (at("clock").textContent = clockFrom(began)), 500);
  channel.postMessage({ kind: "hello" });
}

page.view === "notes" ? notes() : stage();
