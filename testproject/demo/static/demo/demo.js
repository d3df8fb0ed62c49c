// Opens a herd of WebSockets that reconnect by themselves, and draws the state of each: trying, open, waiting for its
// retry time, given up, or closed by the page; and the line of those that have a place in it.

const WORKER_COLOURS = 4;
const NO_CLOSE_FRAME = 1006;
const TICKET = /ticket=[\w-]{24}; /;
const TOGETHER = 12; // Chromium delays a WebSocket by seconds while 16 others of its page are connecting.
const COUNTDOWN = 200; // milliseconds between two looks at the time
const SECONDS = 60; // shown by the chart
const [HEIGHT, FOOT, HEAD, SIDE] = [128, 18, 14, 34]; // of the chart: its foot holds the time, its side the figures
const main = document.querySelector("main");
const rate = Number(main.dataset.rate);
const form = document.querySelector("#crowd");
const restarting = document.querySelector("#restart");
const closing = document.querySelector("#close");
const places = document.querySelector("#line");
const key = document.querySelector("#key");
const cells = document.querySelector("#cells");
const legend = document.querySelector("#legend");

let visitors = [];
let workers = [];
let redraw = 0;

class Visitor {
  constructor(number, url, protocols) {
    this.number = number;
    this.cell = document.createElement("div");
    this.cell.role = "img";
    this.begin = () => this.open(url, protocols);
    this.become("trying", "", "waiting for the others");
  }

  open(url, protocols) {
    this.socket = new AdmissionSocket(url, protocols);
    this.socket.addEventListener("open", () => this.socket.send("pid"));
    this.socket.addEventListener("message", (event) => this.admit(event.data));
    this.socket.addEventListener("close", (event) => this.end(event));
    this.socket.addEventListener("wait", () => this.wait());
    this.try();
  }

  get isConnecting() {
    return this.socket?.readyState === AdmissionSocket.CONNECTING;
  }

  try() {
    chart.tried();
    this.become("trying", "", "waiting for an answer");
  }

  admit(pid) {
    if (!workers.includes(pid)) workers.push(pid);
    this.worker = workers.indexOf(pid);
    chart.letIn();
    this.become("open", "", `in worker ${pid}`);
    openSome();
  }

  end({ code, reason }) {
    const silence = code === NO_CLOSE_FRAME ? "no close frame" : "no reason given";
    if (this.leaving) this.become("left", "", "closed by this page");
    else this.become(this.socket.waiting ? "waiting" : "lost", code, reason.replace(TICKET, "") || silence);
    openSome();
  }

  wait() {
    this.isInLine = this.socket.waiting.hasPlace;
    this.become("waiting");
  }

  leave() {
    this.leaving = true;
    this.socket?.close();
    if (this.state === "waiting" || !this.socket) this.become("left", "", "closed by this page");
  }

  become(state, code = this.code, text = this.text) {
    Object.assign(this, { state, code, text });
    this.draw();
    redraw ||= requestAnimationFrame(summarise);
  }

  // Between two attempts only the time changes; no event marks the start of the next one.
  tick() {
    if (this.state !== "waiting") return;
    if (this.isConnecting) this.try();
    else this.draw();
  }

  get hasPlace() {
    return this.state === "waiting" && this.isInLine;
  }

  get seconds() {
    return this.state === "waiting" ? Math.ceil((this.socket.waiting?.remaining ?? 0) / 1000) : "";
  }

  get look() {
    const shade = this.state === "open" ? ` worker-${this.worker % WORKER_COLOURS}` : "";
    return `cell ${this.state}${shade}`;
  }

  draw() {
    this.cell.className = this.look;
    this.cell.textContent = this.seconds;
    const place = `you have a place; back in ${this.seconds} s`;
    const what = this.hasPlace ? place : `${this.state} ${this.code} ${this.text}`;
    this.cell.title = `${this.number}: ${what}`.replace(/ +/g, " ");
    this.cell.ariaLabel = this.cell.title;
  }
}

/** The connections admitted and the attempts, in each of the last seconds. */
class Chart {
  #svg = document.querySelector("#chart svg");
  #seconds = new Map();
  #width = 0;

  letIn() {
    this.#now().letIn += 1;
  }

  tried() {
    this.#now().tried += 1;
  }

  #now() {
    const second = Math.floor(Date.now() / 1000);
    if (!this.#seconds.has(second)) this.#seconds.set(second, { letIn: 0, tried: 0 });
    return this.#seconds.get(second);
  }

  draw() {
    const now = Math.floor(Date.now() / 1000);
    for (const second of this.#seconds.keys()) if (second <= now - SECONDS) this.#seconds.delete(second);
    const shown = [...this.#seconds];
    const most = Math.max(2 * rate, 10, ...shown.map(([, { letIn }]) => letIn));
    this.#width = this.#svg.clientWidth;
    this.#svg.setAttribute("viewBox", `0 0 ${this.#width} ${HEIGHT}`);
    const bars = shown.flatMap(([second, { letIn, tried }]) => {
      const column = SECONDS - 1 - (now - second);
      return [this.#bar("tried", column, tried / most), this.#bar("let-in", column, letIn / most)];
    });
    this.#svg.replaceChildren(...bars, ...(rate ? this.#line(rate / most) : []), ...this.#axes(most), ...this.#peak(shown, now, most));
  }

  /** The edge of a column; there is one for each second. */
  #x(column) {
    return SIDE + ((this.#width - SIDE) / SECONDS) * column;
  }

  #y(share) {
    return HEIGHT - FOOT - Math.min(1, share) * (HEIGHT - FOOT - HEAD);
  }

  /** The most attempts of a second, where they rise above the chart. */
  #peak(shown, now, most) {
    const [second, { tried }] = shown.toSorted((one, other) => other[1].tried - one[1].tried)[0] ?? [0, { tried: 0 }];
    return tried > most ? [label(`▲ ${tried}`, this.#x(SECONDS - (now - second)), HEAD - 4, "end")] : [];
  }

  #bar(name, column, share) {
    const [x, y] = [this.#x(column), this.#y(share)];
    return element("rect", { class: name, x: x + 0.5, y, width: this.#x(column + 1) - x - 1, height: HEIGHT - FOOT - y });
  }

  #line(share) {
    const y = this.#y(share);
    return [element("line", { x1: SIDE, x2: this.#width, y1: y, y2: y }), label(`${rate} a second`, SIDE + 4, y - 4)];
  }

  #axes(most) {
    const base = this.#y(0);
    const figures = [0, most].map((figure) => label(figure, SIDE - 6, this.#y(figure / most) + 4, "end"));
    const times = [label("a minute ago", SIDE, HEIGHT - 4), label("now", this.#width, HEIGHT - 4, "end")];
    return [element("line", { class: "base", x1: SIDE, x2: this.#width, y1: base, y2: base }), ...figures, ...times];
  }
}

function element(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function label(words, x, y, anchor = "start") {
  const text = element("text", { x, y, "text-anchor": anchor });
  text.textContent = words;
  return text;
}

function sampleOf(look) {
  const sample = document.createElement("span");
  sample.className = look;
  return sample;
}

/** The colour of each worker, above the squares. */
function drawKey() {
  const entries = workers.map((pid, worker) => {
    const entry = document.createElement("li");
    entry.append(sampleOf(`cell open worker-${worker % WORKER_COLOURS}`), `in worker ${pid}`);
    return entry;
  });
  key.replaceChildren(...entries);
}

function summarise() {
  redraw = 0;
  for (const counter of document.querySelectorAll("#counters > div")) {
    const state = counter.classList[0];
    const number = visitors.filter((visitor) => visitor.state === state).length;
    counter.classList.toggle("zero", number === 0);
    counter.querySelector("dd").textContent = number;
  }
  drawPlaces();
  drawKey();
  closing.disabled = visitors.every(({ state }) => state === "lost" || state === "left");
  const rows = [...groups()].sort((a, b) => a.order - b.order).map(row);
  legend.hidden = rows.length === 0;
  legend.querySelector("tbody").replaceChildren(...rows);
}

function drawPlaces() {
  const seconds = visitors.filter(({ hasPlace }) => hasPlace).map((visitor) => visitor.seconds);
  const [first, last] = [Math.min(...seconds), Math.max(...seconds)];
  const many = `${seconds.length} have a place in the line; the first is back in ${first} s, the last in ${last} s`;
  places.textContent = ["The line is empty", `You have a place; back in ${first} s`][seconds.length] ?? many;
}

// One group for each worker, and for each code and reason whose text differs by more than numbers.
function groups() {
  const found = new Map();
  for (const { state, code, text, look, worker, hasPlace } of visitors) {
    if (state === "trying") continue;
    const words = state === "open" ? text : text.replace(/\d+(\.\d+)?/g, "N");
    const key = `${state} ${hasPlace} ${code} ${words}`;
    const order = state === "open" ? worker : 1000 + (Number(code) || 0);
    if (!found.has(key)) found.set(key, { state, code, words, look, order, hasPlace, number: 0 });
    found.get(key).number += 1;
  }
  return found.values();
}

function row({ state, code, words, look, hasPlace, number }) {
  const line = document.createElement("tr");
  const [count, closeCode, reason] = [0, 1, 2].map(() => line.insertCell());
  const name = hasPlace ? "with a place" : state;
  count.append(sampleOf(look), `${number} ${state === "lost" ? "given up" : name}`);
  closeCode.textContent = code || "–";
  reason.textContent = words;
  return line;
}

function openSome() {
  let free = TOGETHER - visitors.filter(({ isConnecting }) => isConnecting).length;
  for (const visitor of visitors.filter(({ socket, leaving }) => !socket && !leaving)) {
    if (free <= 0) return;
    visitor.begin();
    free -= 1;
  }
}

function closeAll() {
  for (const visitor of visitors) visitor.leave();
}

const chart = new Chart();

form.addEventListener("submit", (event) => {
  event.preventDefault();
  closeAll();
  const { count, subprotocol } = form.elements;
  const url = `${location.protocol.replace("http", "ws")}//${location.host}${main.dataset.path}`;
  const protocols = subprotocol.value ? [subprotocol.value] : [];
  workers = [];
  // Each has a path of its own: those of one browser and one path would count as one client that hammers.
  const numbers = Array.from({ length: count.valueAsNumber }, (_, index) => index + 1);
  visitors = numbers.map((number) => new Visitor(number, `${url}${number}/`, protocols));
  cells.replaceChildren(...visitors.map(({ cell }) => cell));
  openSome();
  summarise();
});
restarting?.addEventListener("submit", async (event) => {
  event.preventDefault();
  workers = [];
  await fetch(restarting.action, { method: "POST", body: new FormData(restarting) });
});
closing.addEventListener("click", closeAll);
setInterval(() => {
  for (const visitor of visitors) visitor.tick();
  summarise();
  chart.draw();
}, COUNTDOWN);
summarise();
