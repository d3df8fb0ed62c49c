// Opens a crowd of WebSockets and draws what becomes of each: waiting, then open, refused or lost, or left at our wish.

const WORKER_COLOURS = 4;
const NO_CLOSE_FRAME = 1006;
const form = document.querySelector("#crowd");
const closing = document.querySelector("#close");
const cells = document.querySelector("#cells");
const legend = document.querySelector("#legend");

let sockets = [];
let workers = [];
let redraw = 0;

class Visitor {
  constructor(number, url, protocols) {
    this.number = number;
    this.state = "waiting";
    this.code = "";
    this.text = "waiting for an answer";
    this.cell = document.createElement("div");
    this.cell.role = "img";
    this.gone = new Promise((resolve) => { this.resolve = resolve; });
    this.socket = new WebSocket(url, protocols);
    // A refused socket opens too, for a moment; only an answer shows that it was let in.
    this.socket.addEventListener("open", () => this.socket.send("pid"));
    this.socket.addEventListener("message", (event) => this.admit(event.data));
    this.socket.addEventListener("close", (event) => this.end(event));
    this.draw();
  }

  admit(pid) {
    if (!workers.includes(pid)) workers.push(pid);
    this.worker = workers.indexOf(pid);
    this.become("open", "", `in worker ${pid}`);
  }

  end({ code, reason }) {
    const refused = this.state === "waiting" && code !== NO_CLOSE_FRAME;
    const silence = code === NO_CLOSE_FRAME ? "no close frame" : "no reason given";
    if (this.leaving) this.become("left", "", "closed by this page");
    else this.become(refused ? "refused" : "lost", code, reason || silence);
    this.resolve();
  }

  leave() {
    this.leaving = this.socket.readyState !== WebSocket.CLOSED;
    this.socket.close();
    return this.gone;
  }

  become(state, code, text) {
    Object.assign(this, { state, code, text });
    this.draw();
    redraw ||= requestAnimationFrame(summarise);
  }

  get look() {
    const shade = this.state === "open" ? ` worker-${this.worker % WORKER_COLOURS}` : "";
    return `cell ${this.state}${shade}`;
  }

  draw() {
    this.cell.className = this.look;
    this.cell.title = `${this.number}: ${this.state} ${this.code} ${this.text}`.replace(/ +/g, " ");
    this.cell.ariaLabel = this.cell.title;
  }
}

function summarise() {
  redraw = 0;
  for (const counter of document.querySelectorAll("#counters > div")) {
    const state = counter.classList[0];
    const number = sockets.filter((socket) => socket.state === state).length;
    counter.classList.toggle("zero", number === 0);
    counter.querySelector("dd").textContent = number;
  }
  closing.disabled = !sockets.some(({ state }) => state === "open" || state === "waiting");
  const rows = [...groups()].sort((a, b) => a.order - b.order).map(row);
  legend.hidden = rows.length === 0;
  legend.querySelector("tbody").replaceChildren(...rows);
}

// One group for each worker, and for each code and reason whose text differs by more than numbers.
function groups() {
  const found = new Map();
  for (const { state, code, text, look, worker } of sockets) {
    if (state === "waiting") continue;
    const words = state === "open" ? text : text.replace(/\d+/g, "N");
    const key = `${state} ${code} ${words}`;
    const order = state === "open" ? worker : 1000 + (Number(code) || 0);
    if (!found.has(key)) found.set(key, { state, code, words, look, order, number: 0 });
    found.get(key).number += 1;
  }
  return found.values();
}

function row({ state, code, words, look, number }) {
  const sample = document.createElement("span");
  sample.className = look;
  const line = document.createElement("tr");
  const [count, closeCode, reason] = [0, 1, 2].map(() => line.insertCell());
  count.append(sample, `${number} ${state}`);
  closeCode.textContent = code || "–";
  reason.textContent = words;
  return line;
}

async function closeAll() {
  await Promise.all(sockets.map((socket) => socket.leave()));
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  await closeAll();
  const { count, subprotocol } = form.elements;
  const url = `${location.protocol.replace("http", "ws")}//${location.host}/ws/echo/`;
  const protocols = subprotocol.value ? [subprotocol.value] : [];
  workers = [];
  sockets = Array.from({ length: count.valueAsNumber }, (_, index) => new Visitor(index + 1, url, protocols));
  cells.replaceChildren(...sockets.map(({ cell }) => cell));
  summarise();
});
closing.addEventListener("click", closeAll);
summarise();
