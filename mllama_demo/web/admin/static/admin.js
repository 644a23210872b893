// The operator's page: requests the figures every two seconds and draws them. Texts of visitors are set as text, never as HTML.
const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const INTERVAL_MS = 2000;
const WIDTH = 480, HEIGHT = 170, LEFT = 38, BOTTOM = 20, TOP = 8;

function set(id, text, small) {
  $(id).replaceChildren(text);
  if (small) $(id).append(Object.assign(document.createElement("small"), { textContent: ` ${small}` }));
}

function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 0.1 && value > 0) return `${Math.round(value * 1000)} ms`;
  return value < 10 ? `${value.toFixed(1)} s` : value < 120 ? `${Math.round(value)} s` : `${Math.round(value / 60)} min`;
}

const clock = (start) => new Date(start * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
const short = (value) => (value >= 100 || Number.isInteger(value) ? `${Math.round(value)}` : `${+value.toPrecision(2)}`);

function shape(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// The end of an axis: 1, 2, 4, 5 or 10 times a power of ten, so that half of it is a round number too.
function axisEnd(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 5, 10].map((step) => step * power).find((end) => end >= value * 0.999);
}

// bars: values of each minute by CSS class, stacked from the bottom up. line: one value for each minute, null for no value.
// describe: returns the tooltip of a minute.
function chart(id, minutes, { bars = [], line = null, describe, name }) {
  const sums = minutes.map((_, i) => (line ? line[i] ?? 0 : bars.reduce((sum, bar) => sum + bar.values[i], 0)));
  const top = axisEnd(Math.max(...sums));
  const step = (WIDTH - LEFT) / minutes.length;
  const x = (i) => LEFT + i * step;
  const y = (value) => HEIGHT - BOTTOM - (value / top) * (HEIGHT - BOTTOM - TOP);
  const most = Math.max(...sums);
  const label = most > 0 ? `${name} over the last hour, at most ${short(most)} in a minute` : `${name} over the last hour: none`;
  const svg = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label });
  for (const value of [0, top / 2, top]) {
    svg.append(shape("line", { class: "grid", x1: LEFT, x2: WIDTH, y1: y(value), y2: y(value) }));
    svg.append(shape("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, short(value)));
  }
  minutes.forEach((minute, i) => {
    const last = i === minutes.length - 1;
    if (last || (minute.start % 900 === 0 && i < minutes.length - 9 && i > 1)) {
      svg.append(shape("text", { x: last ? WIDTH : x(i), y: HEIGHT - 4, "text-anchor": last ? "end" : "middle" }, last ? "now" : clock(minute.start)));
    }
    let base = 0;
    for (const bar of bars) {
      const value = bar.values[i];
      if (value > 0) {
        const high = Math.max(y(base) - y(base + value), 1.5);
        svg.append(shape("rect", { class: bar.class, x: x(i) + 0.75, width: step - 1.5, y: y(base) - high, height: high, rx: 1 }));
      }
      base += value;
    }
  });
  if (line) {
    let path = "", before = false;
    line.forEach((value, i) => {
      if (value === null) return (before = false);
      const point = `${x(i) + step / 2} ${y(value)}`;
      path += `${before ? "L" : "M"}${point}`;
      svg.append(shape("circle", { class: "point", cx: x(i) + step / 2, cy: y(value), r: 2.5 }));
      before = true;
    });
    svg.append(shape("path", { class: "line", d: path || "M0 0" }));
  }
  minutes.forEach((minute, i) => {
    const hit = shape("rect", { class: "hit", x: x(i), width: step, y: TOP, height: HEIGHT - BOTTOM - TOP });
    hit.append(shape("title", {}, `${clock(minute.start)}: ${describe(minute)}`));
    svg.append(hit);
  });
  // A new drawing would close the tooltip under the pointer, so the old one stays until the pointer leaves.
  if (!$(id).matches(":hover") || !$(id).firstChild) $(id).replaceChildren(svg);
}

function row(table, cells) {
  const made = table.tBodies[0].insertRow();
  for (const cell of cells) {
    const td = made.insertCell();
    if (typeof cell === "object" && cell !== null) td.append(Object.assign(document.createElement("p"), { textContent: cell.long }));
    else { td.textContent = cell; td.className = "number"; }
  }
}

function fill(id, empty, rows) {
  const table = $(id);
  table.tBodies[0].replaceChildren();
  rows.forEach((cells) => row(table, cells));
  table.hidden = rows.length === 0;
  table.parentElement.hidden = rows.length === 0;
  $(empty).hidden = rows.length > 0;
}

function restarts({ restarts: count, last_failure: cause }) {
  return count ? ` · started again ${count === 1 ? "once" : `${count} times`}${cause ? `, the last time because: ${cause}` : ""}` : "";
}

const gib = (bytes) => `${(bytes / 2 ** 30).toFixed(1)} GiB`;

// The NeuronCores: how busy each is and how much of its memory is used, and what went wrong on the devices.
function drawNeuron(neuron) {
  $("neuron").hidden = neuron === null;
  const shown = JSON.stringify(neuron);
  if (neuron === null || shown === drawNeuron.shown) return; // drawing again would close a tooltip
  drawNeuron.shown = shown;
  const problems = [];
  if (!neuron.up) problems.push("neuron-monitor does not report");
  if (neuron.uncorrected) problems.push(`memory errors that could not be corrected: ${neuron.uncorrected}; replace the instance`);
  const failed = Object.entries(neuron.errors).map(([kind, count]) => `${kind} ${count}`);
  if (failed.length) problems.push(`failed steps: ${failed.join(", ")}`);
  problems.push(...neuron.problems);
  $("neuron-problem").hidden = problems.length === 0;
  set("neuron-problem", problems.join(" · "));
  const parts = [`${neuron.cores.length} NeuronCores in use`];
  if (neuron.latency_s !== null) parts.push(`a step takes ${seconds(neuron.latency_s)} on the device`);
  if (neuron.host_bytes !== null) parts.push(`${gib(neuron.host_bytes)} of the host's memory`);
  set("neuron-summary", neuron.up ? parts.join(" · ") : "");
  $("neuron-cores").replaceChildren(...neuron.cores.map((one) => {
    const item = document.createElement("li");
    const busy = one.utilization === null ? "–" : `${Math.round(one.utilization * 100)} %`;
    const memory = one.bytes === null ? "–" : gib(one.bytes);
    item.title = Object.entries(one.uses).map(([use, bytes]) => `${use} ${gib(bytes)}`).join(", ");
    item.append(`${one.core}: ${busy}, ${memory}`);
    if (one.bytes !== null && neuron.core_bytes) {
      const share = Object.assign(document.createElement("meter"), { max: neuron.core_bytes, value: one.bytes, high: neuron.core_bytes * 0.9 });
      share.setAttribute("aria-label", `memory of NeuronCore ${one.core}: ${memory} of ${gib(neuron.core_bytes)}`);
      item.append(share);
    }
    return item;
  }));
}

// The latest failures whose request id has the text of the filter.
function drawFailures(failures) {
  const wanted = $("failure-filter").value.trim();
  const found = failures.filter((one) => one.request_id.includes(wanted));
  $("no-failures").textContent = failures.length ? "No failure of such a request is known." : "Nothing has failed since the program was started.";
  const shown = JSON.stringify(found);
  if (shown === drawFailures.shown) return; // drawing the table again would remove a selection of text in it
  drawFailures.shown = shown;
  fill("failures", "no-failures", found.map((one) => [
    new Date(one.time * 1000).toLocaleString(), one.reason, one.request_id || "–", { long: one.cause },
  ]));
}

async function restart() {
  if ($("dot").classList.contains("ready") && !confirm("Start the model again? Answers that are being written end with an error.")) return;
  $("restart").disabled = true;
  const problem = $("restart-problem");
  problem.hidden = true;
  try {
    const answer = await fetch("admin/restart", { method: "POST" });
    if (!answer.ok) throw new Error();
  } catch {
    problem.textContent = "The model could not be started again; please reload the page.";
    problem.hidden = false;
  }
}

function draw({ model, status, requests, minutes, failures, feedback, database, now, may_restart, idle_s, neuron }) {
  $("database-failure").textContent = database ?? "";
  $("database-failure").hidden = database === null;
  $("restart").hidden = !may_restart;
  $("restart").disabled = false;
  $("dot").className = `dot ${status.state}`;
  const state = { ready: "Ready", loading: `Loading: ${status.detail}`, down: `Down: ${status.detail}` }[status.state] ?? status.state;
  set("state", `${state} · ${model.name} on ${model.device} · ${model.context_length === null ? "context unknown" : `context of ${model.context_length} tokens`}${idle_s >= 600 ? ` · idle for ${seconds(idle_s)}` : ""}${restarts(status)}`);
  drawNeuron(neuron);
  set("running", `${status.running}`, `of ${status.slots}`);
  set("waiting", `${status.waiting}`, `of ${status.max_waiting} at most`);
  set("wait", status.state !== "ready" ? "–" : status.estimated_wait_s === 0 ? "now" : seconds(status.estimated_wait_s));
  const [before, current] = minutes.slice(-2);
  // The last 60 seconds, estimated: the current minute and a share of the minute before it.
  const passed = Math.min(now - current.start, 60);
  set("speed", ((current.tokens + (before.tokens * (60 - passed)) / 60) / 60).toFixed(1));
  const total = (name) => minutes.reduce((sum, minute) => sum + minute[name], 0);
  const problems = [[total("failed"), "failed"], [total("refused"), "refused"]].filter(([n]) => n).map(([n, word]) => `${n} ${word}`);
  set("answers", `${total("requests")}`, problems.join(", "));

  if ($("slots").children.length !== status.slots) {
    $("slots").replaceChildren(...Array.from({ length: status.slots }, () => document.createElement("li")));
  }
  [...$("slots").children].forEach((slot, i) => {
    const busy = i < status.running;
    slot.className = busy ? "busy" : "";
    slot.title = busy ? "busy" : "free";
    slot.setAttribute("aria-label", `slot ${i + 1}: ${busy ? "busy" : "free"}`);
  });
  const phases = { waiting: (one) => (one.position ? `waiting, number ${one.position}` : "waiting"), reading: () => "reading", writing: () => "writing" };
  fill("requests", "no-requests", requests.map((one) => [
    phases[one.phase](one), seconds(one.seconds), one.image ? "yes" : "no", one.prompt_tokens ?? "–", one.tokens,
  ]));

  $("replica-section").hidden = !status.replicas.length;
  fill("replicas", "no-replicas", status.replicas.map((one) => [one.name, one.node, one.state, `${one.running} of ${one.slots}`, one.waiting]));

  chart("chart-tokens", minutes, {
    name: "Tokens a second",
    bars: [{ class: "bar", values: minutes.map((minute) => minute.tokens / 60) }],
    describe: (minute) => `${minute.tokens} tokens, ${(minute.tokens / 60).toFixed(1)} a second`,
  });
  chart("chart-requests", minutes, {
    name: "Answers a minute",
    bars: [
      { class: "bar", values: minutes.map((minute) => minute.requests - minute.failed) },
      { class: "bad", values: minutes.map((minute) => minute.failed + minute.refused) },
    ],
    describe: (minute) => `${minute.requests} answers, ${minute.failed} failed, ${minute.refused} refused`,
  });
  chart("chart-ttft", minutes, {
    name: "Seconds to the first token",
    line: minutes.map((minute) => minute.ttft_s),
    describe: (minute) => (minute.ttft_s === null ? "no answers" : `${seconds(minute.ttft_s)} on average`),
  });

  draw.failures = failures;
  drawFailures(failures);

  $("ratings-unknown").hidden = feedback !== null;
  if (feedback === null) return; // those drawn before stay
  set("rating-counts", feedback.good + feedback.bad ? `${feedback.good} good, ${feedback.bad} bad` : "");
  // Only after a change: drawing the table again would remove a selection of text in it.
  const latest = JSON.stringify(feedback.latest);
  if (latest === draw.latest) return;
  draw.latest = latest;
  fill("feedback", "no-feedback", feedback.latest.map((one) => [
    one.given, (one.good ? "good" : "bad") + (one.user ? `, ${one.user}` : ""), { long: one.note || "–" },
    { long: one.question ?? "(deleted)" }, { long: one.answer ?? "(deleted)" }, one.model,
  ]));
}

$("failure-filter").addEventListener("input", () => draw.failures && drawFailures(draw.failures));

async function refresh() {
  try {
    const answer = await fetch("admin/figures", { cache: "no-store" });
    if (answer.status === 401) return location.reload();
    if (!answer.ok) throw new Error(`${answer.status}`);
    draw(await answer.json());
    $("connection-lost").hidden = true;
  } catch {
    $("connection-lost").hidden = false;
  }
  setTimeout(refresh, INTERVAL_MS);
}
$("restart").addEventListener("click", restart);
refresh();
