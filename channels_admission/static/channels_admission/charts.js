/**
 * Draws the history of a pool as SVG: slots held and the limit, and below them admissions and refusals.
 *
 * `new AdmissionChart(figure, words)` fills a figure rendered by the server; `draw(series, now)` shows a series of
 * history.py. The figures are also given as text: in the label of the picture, in a line for the point under the
 * pointer, and in a table. Times are in UTC.
 */
class AdmissionChart {
  static #SVG = "http://www.w3.org/2000/svg";
  static #SHADES = 6; // of the reasons that have the name of a quota
  static #KINDS = new Set(["full", "rate", "crowd", "entrance", "share", "paused", "draining", "worker_full", "ledger", "settling", "lag", "memory", "descriptors", "cpu", "threads"]);
  static #SPIKES = 0.02; // the share of the points above zero that may rise above the plot
  static #FEW = 20; // points above zero, which the plot shows all
  static #ROWS = { 1: 60, 60: 60 }; // points in a row of the table: a minute, an hour
  static #TICKS = { 1: 300, 60: 21600 }; // seconds from one time at the axis to the next
  static #NUMBER = new Intl.NumberFormat(document.documentElement.lang || undefined, { maximumFractionDigits: 1 });

  #figure;
  #words;
  #spike = null;
  #series = null;
  #now = 0;
  #place = null;

  constructor(figure, words) {
    this.#figure = figure;
    this.#words = words;
    const plots = this.#find("plots");
    plots.addEventListener("pointermove", (event) => this.#point(event));
    plots.addEventListener("pointerleave", () => this.#say(null));
    this.#figure.querySelector("details")?.addEventListener("toggle", () => this.#tabulate());
  }

  draw(series, now) {
    this.#series = series;
    this.#now = now;
    this.#figure.hidden = series.held.every((held) => held === null);
    if (this.#figure.hidden) {
      return;
    }
    this.#drawHeld();
    this.#drawRates();
    this.#find("plots").setAttribute("aria-label", this.#summary());
    this.#say(this.#place);
    this.#tabulate();
  }

  #drawHeld() {
    const { held, limit } = this.#series;
    const top = AdmissionChart.round(Math.max(1, ...held, ...limit));
    const svg = this.#plot("held", top);
    this.#shape(svg, "held", held.map((value) => value ?? 0), held.map(() => 0), top);
    this.#line(svg, "limit", limit, top);
  }

  #drawRates() {
    const layers = [["admitted", "admitted", this.#series.admitted], ...this.#layersOfRefused()];
    const sums = new Array(this.#series.held.length).fill(0);
    const stacks = layers.map(([name, kind, counts]) => {
      const floor = [...sums];
      counts.forEach((count, place) => (sums[place] += count / this.#seconds(place)));
      return [name, kind, [...sums], floor];
    });
    const top = AdmissionChart.round(AdmissionChart.ceiling(sums));
    const svg = this.#plot("rates", top);
    for (const [, kind, upper, lower] of stacks) {
      this.#shape(svg, kind, upper, lower, top);
    }
    this.#mark(sums, top);
    this.#legend(layers);
  }

  /** Mark each point that rises above the plot, and tell the highest in figures. */
  #mark(sums, top) {
    const above = [...sums.keys()].filter((place) => sums[place] > top);
    const share = (place) => (place + 0.5) / sums.length;
    const x = (place) => `${(100 * share(place)).toFixed(2)}%`;
    const marks = above.map((place) => AdmissionChart.#make("line", { class: "admission-spike", x1: x(place), x2: x(place), y1: 0, y2: 5 }));
    const [place] = [...above].sort((one, other) => sums[other] - sums[one]);
    this.#spike = place === undefined ? null : { most: AdmissionChart.#NUMBER.format(sums[place]), time: this.#clock(place) };
    if (this.#spike !== null) {
      const side = share(place) > 0.85 ? { dx: -4, "text-anchor": "end" } : { dx: 4 };
      const text = AdmissionChart.#make("text", { class: "admission-peak", x: x(place), y: 0, dy: "1.1em", ...side });
      text.textContent = `▲ ${this.#spike.most}`;
      marks.push(text);
    }
    this.#find("rates").append(...marks);
  }

  #layersOfRefused() {
    return this.#reasons().map((reason) => [reason, `refused-${AdmissionChart.kind(reason)}`, this.#series.refused[reason]]);
  }

  /** The reasons that occurred, the most frequent first. */
  #reasons() {
    const totals = Object.entries(this.#series.refused).map(([reason, counts]) => [reason, AdmissionChart.sum(counts)]);
    return totals.filter(([, total]) => total > 0).sort((one, other) => other[1] - one[1]).map(([reason]) => reason);
  }

  /** The seconds that a point covers; the last one is not over yet. */
  #seconds(place) {
    const { step, start, held } = this.#series;
    return place === held.length - 1 ? Math.min(step, Math.max(1, this.#now - (start + place * step) + 1)) : step;
  }

  /** An empty plot with its axes, and inside it the drawing area, one unit wide for each point. */
  #plot(name, top) {
    const plot = this.#find(name);
    const area = AdmissionChart.#make("svg", { viewBox: `0 0 ${this.#series.held.length} 100`, preserveAspectRatio: "none", class: "admission-area", width: "100%", height: "100%" });
    const marks = [0, 0.5].flatMap((share) => this.#level(share, top));
    plot.replaceChildren(area, ...marks, ...this.#times(), AdmissionChart.#make("line", { class: "admission-pointer", y1: "0%", y2: "100%" }));
    return area;
  }

  #level(share, top) {
    const y = `${100 * share}%`;
    const text = AdmissionChart.#make("text", { class: "admission-scale", x: 2, y, dy: "1.1em" });
    text.textContent = AdmissionChart.#NUMBER.format(top * (1 - share));
    return [AdmissionChart.#make("line", { class: "admission-grid", x1: "0%", x2: "100%", y1: y, y2: y }), text];
  }

  #times() {
    const { step, start, held } = this.#series;
    const length = held.length * step;
    const every = AdmissionChart.#TICKS[step];
    const marks = [];
    for (let at = Math.ceil(start / every) * every; at < start + length; at += every) {
      const share = (at - start) / length;
      const x = `${(100 * share).toFixed(2)}%`;
      marks.push(AdmissionChart.#make("line", { class: "admission-grid", x1: x, x2: x, y1: "0%", y2: "100%" }));
      const side = share > 0.85 ? { dx: -3, "text-anchor": "end" } : { dx: 3 };
      const text = AdmissionChart.#make("text", { class: "admission-time", x, y: "100%", dy: -4, ...side });
      text.textContent = marks.length > 1 ? this.#time(at, false) : `${this.#time(at, false)} UTC`;
      marks.push(text);
    }
    return marks;
  }

  #time(at, exactly = this.#series.step === 1) {
    return new Date(1000 * at).toISOString().slice(11, exactly ? 19 : 16);
  }

  /** The time of a point, as it is told. */
  #clock(place) {
    return `${this.#time(this.#series.start + place * this.#series.step)} UTC`;
  }

  #shape(svg, kind, upper, lower, top) {
    const y = (value) => (100 - (100 * value) / top).toFixed(2);
    const there = upper.map((value, place) => `V${y(value)}H${place + 1}`).join("");
    const back = lower.map((_, place) => place).reverse().map((place) => `V${y(lower[place])}H${place}`).join("");
    svg.append(AdmissionChart.#make("path", { class: `admission-shape-${kind}`, d: `M0,${y(lower[0])}${there}${back}Z` }));
  }

  #line(svg, kind, values, top) {
    const y = (value) => (100 - (100 * value) / top).toFixed(2);
    const steps = values.map((value, place) => {
      if (value === null) {
        return "";
      }
      return `${place === 0 || values[place - 1] === null ? `M${place},` : "V"}${y(value)}H${place + 1}`;
    });
    svg.append(AdmissionChart.#make("path", { class: `admission-line-${kind}`, d: steps.join("") || "M0,0" }));
  }

  #legend(layers) {
    const entries = layers.map(([name, kind]) => {
      const entry = document.createElement("li");
      entry.className = `admission-key-${kind}`;
      entry.textContent = kind === "admitted" ? this.#words.chart.admitted : this.#words.reasonOf(name);
      return entry;
    });
    this.#find("legend").replaceChildren(...entries);
  }

  #point(event) {
    const { left, width } = this.#find("plots").getBoundingClientRect();
    const length = this.#series?.held.length ?? 0;
    this.#say(Math.max(0, Math.min(length - 1, Math.floor(((event.clientX - left) / width) * length))));
  }

  /** Show the point at that place in words, or a summary. */
  #say(place) {
    this.#place = place;
    if (this.#series === null) {
      return;
    }
    const x = `${(100 * ((place ?? 0) + 0.5)) / this.#series.held.length}%`;
    for (const line of this.#figure.querySelectorAll(".admission-pointer")) {
      line.setAttribute("x1", x);
      line.setAttribute("x2", x);
      line.classList.toggle("admission-shown", place !== null);
    }
    this.#find("readout").textContent = place === null ? this.#summary() : this.#readout(place);
  }

  #readout(place) {
    const { held, limit, admitted } = this.#series;
    if (held[place] === null) {
      return this.#words.fill(this.#words.chart.unknown, { time: this.#clock(place) });
    }
    const rate = (counts) => AdmissionChart.#NUMBER.format(counts[place] / this.#seconds(place));
    const said = this.#words.fill(this.#words.chart.point, {
      time: this.#clock(place),
      held: AdmissionChart.told(held[place]),
      limit: AdmissionChart.told(limit[place]),
      admitted: rate(admitted),
    });
    const refused = this.#reasons().filter((reason) => this.#series.refused[reason][place] > 0);
    return [said, ...refused.map((reason) => `${this.#words.reasonOf(reason)} ${rate(this.#series.refused[reason])}`)].join(" · ");
  }

  #summary() {
    const { held, admitted, refused } = this.#series;
    const summary = this.#words.fill(this.#words.chart.summary, {
      most: AdmissionChart.told(Math.max(...held)),
      admitted: AdmissionChart.told(AdmissionChart.sum(admitted)),
      refused: AdmissionChart.told(AdmissionChart.sum(Object.values(refused).map(AdmissionChart.sum))),
    });
    return this.#spike === null ? summary : `${summary} ${this.#words.fill(this.#words.chart.spike, this.#spike)}`;
  }

  /** Fill the table of figures while it is open. */
  #tabulate() {
    const details = this.#figure.querySelector("details");
    if (this.#series === null || !details?.open) {
      return;
    }
    const { step, start, held, limit, admitted, refused } = this.#series;
    const size = AdmissionChart.#ROWS[step];
    const rows = [];
    for (let from = 0; from < held.length; from += size) {
      const part = (values) => values.slice(from, from + size);
      const known = part(held).filter((value) => value !== null);
      const lost = Object.values(refused).map((counts) => AdmissionChart.sum(part(counts)));
      const cells = [
        this.#time(start + from * step, false),
        AdmissionChart.told(known.length ? Math.max(...known) : null),
        AdmissionChart.told(part(limit).findLast((value) => value !== null) ?? null),
        AdmissionChart.told(AdmissionChart.sum(part(admitted))),
        AdmissionChart.told(AdmissionChart.sum(lost)),
      ];
      const row = document.createElement("tr");
      row.append(...cells.map((text, column) => AdmissionChart.#cell(text, column)));
      rows.unshift(row);
    }
    details.querySelector("tbody").replaceChildren(...rows);
  }

  #find(part) {
    return this.#figure.querySelector(`[data-part="${part}"]`);
  }

  static #cell(text, column) {
    const cell = document.createElement(column ? "td" : "th");
    cell.textContent = text;
    if (column) {
      cell.className = "admission-number";
    } else {
      cell.scope = "row";
    }
    return cell;
  }

  static #make(name, attributes) {
    const element = document.createElementNS(AdmissionChart.#SVG, name);
    for (const [key, value] of Object.entries(attributes)) {
      element.setAttribute(key, value);
    }
    return element;
  }

  static sum(counts) {
    return counts.reduce((total, count) => total + count, 0);
  }

  static told(value) {
    return value === null ? "–" : AdmissionChart.#NUMBER.format(value);
  }

  /** The colour of a reason, always the same: its own, or a shade by the name of its quota. */
  static kind(reason) {
    const [kind, quota] = reason.split(/:(.*)/);
    if (AdmissionChart.#KINDS.has(reason)) {
      return reason;
    }
    const shade = [...reason].reduce((hash, letter) => (hash * 34 + letter.codePointAt(0)) % 9973, 0);
    return quota && (kind === "quota" || kind === "attempts") ? `quota-${shade % AdmissionChart.#SHADES}` : "other";
  }

  /** What the axis has to reach: the highest value, unless few points are far above all others. */
  static ceiling(values) {
    const shown = values.filter((value) => value > 0).sort((one, other) => one - other);
    const most = shown.at(-1) ?? 0;
    const usual = shown[Math.floor((1 - AdmissionChart.#SPIKES) * (shown.length - 1))];
    return Math.max(1, shown.length > AdmissionChart.#FEW && most > 3 * usual ? 1.5 * usual : most);
  }

  /** The next round number from `value` on, for an axis. */
  static round(value) {
    const unit = 10 ** Math.floor(Math.log10(value));
    return [1, 2, 4, 6, 8, 10].map((times) => times * unit).find((round) => round >= value);
  }
}
