/**
 * Updates the admission numbers on admin pages.
 *
 * Every element with `data-admission` is a board: rendered by the server, then filled from the JSON at
 * its `data-feed`. `data-field` names the value of an element, `data-list` the items of its children
 * (made from the `<template data-item>` of the same name, identified by `data-key`), `data-notice` the
 * condition on which it shows, `data-chart` a series of its pool in the JSON at `data-history`. All
 * text comes from the page and its `data-words`, and is inserted as text only.
 */
(() => {
  "use strict";

  const EVERY = 2000; // milliseconds from the end of one look to the start of the next
  const MINUTES_EVERY = 30000; // milliseconds from one look at the minutes to the next
  const TIMEOUT = 8000; // milliseconds after which a look is given up
  const NUMBER = new Intl.NumberFormat(document.documentElement.lang || undefined);

  const number = (value) => NUMBER.format(value);
  const sum = (counts) => Object.values(counts).reduce((total, count) => total + count, 0);
  const listed = (counts) => Object.entries(counts).map(([name, count]) => `${number(count)} ${name}`).join(", ");
  const lengthOf = (share) => `${(100 * Math.min(share, 1)).toFixed(1)}%`;
  const fill = (sentence, values) => sentence.replace(/\{(\w+)\}/g, (_, name) => values[name]);

  /** The own property of `table`, else undefined: the name comes from a worker or a setting, and may be an inherited one. */
  const own = (table, name) => (Object.hasOwn(table, name) ? table[name] : undefined);

  // Lines break between the units, not within one.
  const countOf = (units, written) => written.replace("%s", units).replace(" ", "\u00a0");

  /** A time span in its longest unit and the next one. */
  function duration(seconds, units) {
    const whole = Math.floor(seconds);
    const longest = units.findIndex(([size]) => whole >= size);
    if (longest === -1) {
      return countOf(0, units.at(-1)[1]);
    }
    const [size, written] = units[longest];
    const [smaller, writtenSmaller] = units[longest + 1] ?? [Infinity, ""];
    const rest = Math.floor((whole % size) / smaller);
    const count = countOf(Math.floor(whole / size), written);
    return rest ? `${count} ${countOf(rest, writtenSmaller)}` : count;
  }

  /** A monitor's reading, or a question mark if unknown. */
  function reading({ name, reading }, words) {
    if (reading === null) {
      return "?";
    }
    const [times, written] = own(words.readings, name) ?? [1, null];
    return written === null ? number(Number(reading.toPrecision(3))) : countOf(Math.round(times * reading), written).replace("%%", "%");
  }

  function reasonOf(name, words) {
    const [kind, quota] = name.split(/:(.*)/);
    const named = own({ quota: words.quota, attempts: words.attempts }, kind);
    return named && quota ? fill(named, { name: quota }) : (own(words.reason, name) ?? name);
  }

  /** The overrides of a pool: key, text, operator and time, and the target of a drain. */
  function ordersOf({ controls, configured }, words) {
    const { limit, paused, dry_run: dryRun, drains } = controls;
    const said = words.order;
    const shown = [];
    const show = (key, what, { by, at }, target = "") => {
      const time = new Date(1000 * at).toISOString().slice(0, 19).replace("T", " ");
      shown.push({ key, what, target, by: fill(said.by, { by: by || "?", at: time }) });
    };
    if (limit !== null) {
      const values = { value: number(limit.value), configured: number(configured), over: number(limit.over) };
      show("limit", fill(limit.over === null ? said.limit : said.enforced, values), limit);
    }
    if (paused !== null) {
      show("paused", said.paused, paused);
    }
    if (dryRun !== null) {
      show("dry-run", dryRun.value ? said.dry : said.wet, dryRun);
    }
    for (const drain of drains) {
      const target = drain.target === "*" ? said.all_workers : drain.target;
      show(`drain ${drain.target}`, fill(said.drain, { target, over: number(drain.over) }), drain, drain.target);
    }
    return shown;
  }

  /** The settings in which workers differ; their sites have a notice of their own. */
  const differing = (differs) => Object.keys(differs).filter((name) => name !== "site");

  /** The versions of the package that a pool's workers run, that of the newest worker last. */
  const releasesOf = ({ workers }) => [...new Set([...workers].sort((a, b) => b.uptime - a.uptime).map(({ release }) => release))];

  /** The rank of a worker, the worst one's the least, as in `status/words.py`; then by the most connections. */
  const rankOf = ({ silent, failing, load, faults, draining, held }) => [
    Number(!silent), Number(failing === 0), -Math.max(0, ...load.map(({ pressure }) => pressure)),
    Number(Object.keys(faults).length === 0), Number(!draining), -held,
  ];

  function worse([one], [other]) {
    const place = one.findIndex((value, at) => value !== other[at]);
    return place < 0 ? 0 : one[place] - other[place];
  }

  /** All workers of a pool that has few, the worst of many. */
  function shownOf({ workers }, { workersShown }) {
    if (workers.length <= workersShown) return workers;
    return workers.map((worker) => [rankOf(worker), worker]).sort(worse).slice(0, workersShown).map(([, worker]) => worker);
  }

  const clock = (second) => new Date(1000 * second).toISOString().slice(11, 19);

  /** The text of each field of an item. */
  const FIELDS = {
    "ledger.health": ({ health }, words) => own(words.health, health) ?? health,
    "ledger.error": ({ error }) => error ?? "",
    "pool.name": ({ name }) => name,
    "pool.held": ({ held }) => number(held),
    "pool.limit": ({ limit }) => number(limit),
    "pool.free": (pool, words) => own(words.free, pool.state) ?? number(pool.free),
    "pool.reserve": ({ reserve }) => number(reserve),
    "pool.state": (pool, words) => own(words.state, pool.state) ?? pool.state,
    "pool.alert": ({ alert }, words) => own(words.level, alert) ?? alert,
    "pool.would_refuse": ({ would_refuse }) => number(sum(would_refuse)),
    "pool.differs": ({ differs }) => differing(differs).join(", "),
    "pool.site": ({ site }) => site ?? "",
    "pool.settings": ({ settings }) => settings ?? "",
    "pool.releases": (pool) => releasesOf(pool).join(", "),
    "pool.more": ({ workers }, { workersShown }) => number(Math.max(0, workers.length - workersShown)),
    "pool.elsewhere": ({ elsewhere }) => number(elsewhere.held),
    "pool.admitted": ({ admitted }) => number(admitted),
    "pool.refused": ({ refused }) => number(sum(refused)),
    "pool.delayed": ({ delayed }) => number(delayed),
    "pool.promised": ({ promised }) => number(promised),
    "pool.redeemed": ({ redeemed }) => number(redeemed),
    "pool.missed": ({ missed }) => number(missed),
    "pool.refusals_held": ({ refusals_held }) => number(refusals_held),
    "pool.passed": ({ passed }) => number(passed),
    "pool.unaccepted": ({ unaccepted }) => number(unaccepted),
    "pool.outlived": ({ outlived }) => number(outlived),
    "pool.evicted": ({ evicted }) => number(evicted),
    "pool.channels_full": ({ channels_full: count }) => number(count),
    "pool.layer_failed": ({ layer_failed: count }) => number(count),
    "pool.healed": ({ healed }) => number(healed),
    "pool.lost": ({ lost }) => number(lost),
    "pool.lost_workers": ({ lost_workers }) => lost_workers.map(({ host, pid, at }) => `${clock(at)} ${host} ${pid}`).join(", "),
    "pool.data_lost": ({ latest }) => clock(latest.data_lost ?? 0),
    "pool.events_dropped": ({ events_dropped }) => number(events_dropped),
    "pool.speed": ({ speed }) => number(Math.round(speed ?? 0)),
    "reason.name": ({ name }, words) => reasonOf(name, words),
    "reason.count": ({ count }) => number(count),
    "order.what": ({ what }) => what,
    "order.by": ({ by }) => by,
    "class.name": ({ name }) => name,
    "class.held": ({ held }) => number(held),
    "second.at": ({ at }) => clock(at),
    "second.handshakes": ({ handshakes }) => number(handshakes),
    "load.name": ({ name }, words) => own(words.monitor, name) ?? name,
    "load.reading": (load, words) => reading(load, words),
    "worker.host": ({ host }) => host,
    "worker.pid": ({ pid }) => String(pid),
    "worker.server": ({ server }) => server || "–",
    "worker.held": ({ held }) => number(held),
    "worker.silence": (worker, words) => duration(worker.silence, words.durations),
    "worker.faults": ({ faults }) => listed(faults),
    "worker.uptime": ({ uptime }, words) => duration(uptime, words.durations),
  };

  /** Whether a colour of CSS is nearer to white than to black. */
  function isLight(colour) {
    const pencil = document.createElement("canvas").getContext("2d");
    pencil.fillStyle = colour;
    pencil.fillRect(0, 0, 1, 1);
    const [red, green, blue] = pencil.getImageData(0, 0, 1, 1).data;
    return 0.299 * red + 0.587 * green + 0.114 * blue > 127;
  }

  class Ended extends Error {}

  class Board {
    constructor(root) {
      this.root = root;
      this.words = JSON.parse(root.dataset.words);
      // The time of the numbers shown, by this page's own clock.
      this.taken = "age" in root.dataset ? performance.now() - 1000 * Number(root.dataset.age) : null;
      this.states = new Map();
      this.charts = new WeakMap();
      this.minutesAt = -Infinity;
      this.timer = null;
      this.looking = false;
      this.ended = false;
    }

    start() {
      this.followTheme();
      for (const pool of this.root.querySelectorAll(".admission-pool")) {
        this.states.set(pool.dataset.key, pool.dataset.level);
      }
      document.addEventListener("visibilitychange", () => this.wait(0));
      setInterval(() => this.showAge(), 1000);
      this.notice("live", !("stale" in this.root.dataset));
      this.wait(0);
    }

    /** Fetch again after `delay` milliseconds, unless the page is hidden or a fetch is under way. */
    wait(delay) {
      clearTimeout(this.timer);
      if (!document.hidden && !this.looking && !this.ended) {
        this.timer = setTimeout(() => this.look(), delay);
      }
    }

    async look() {
      this.looking = true;
      try {
        this.show(await this.fetch(this.root.dataset.feed));
        await this.showPast();
      } catch (error) {
        this.ended = error instanceof Ended;
        this.notice("ended", this.ended);
        this.notice("lost", !this.ended);
        this.stale(true);
      }
      this.looking = false;
      this.wait(EVERY);
    }

    async fetch(url) {
      const response = await fetch(url, {
        headers: { Accept: "application/json" },
        redirect: "manual",
        signal: AbortSignal.timeout(TIMEOUT),
      });
      if (response.type === "opaqueredirect" || response.status === 403) {
        throw new Ended();
      }
      if (!response.ok) {
        throw new Error(response.statusText);
      }
      return response.json();
    }

    /** Take light colours beside light text: a theme of the admin may be dark without telling the browser. */
    followTheme() {
      this.root.dataset.scheme = isLight(getComputedStyle(this.root).color) ? "dark" : "light";
    }

    show(snapshot) {
      this.followTheme();
      const { ledger, pools } = snapshot;
      const down = ledger.health === "down";
      this.notice("lost", false);
      this.notice("disabled", !snapshot.enabled);
      this.notice("settling", ledger.health === "settling");
      this.notice("late", ledger.health === "late");
      this.notice("down", down);
      this.notice("error", Boolean(ledger.error));
      this.write(this.root, "ledger", ledger);
      for (const place of this.root.querySelectorAll("[data-health]")) {
        place.dataset.health = ledger.health;
      }
      if (!down) {
        this.taken = performance.now();
        this.arrange(this.root, "pools", this.inOrder(pools), "name", (element, pool) => this.showPool(element, pool));
        this.announce(pools);
      }
      this.stale(down);
    }

    /** The pools by trouble, or as they stand while the list is in use: nothing moves away under a pointer. */
    inOrder(pools) {
      const list = this.root.querySelector('[data-list="pools"]');
      const { trouble } = this.words;
      const rank = (pool) => Math.min(trouble.indexOf(pool.state), trouble.indexOf(pool.alert));
      const places = [...list.children].map((child) => child.dataset.key);
      const place = ({ name }) => (places.includes(name) ? places.indexOf(name) : places.length);
      const of = list.matches(":hover, :focus-within") ? place : rank;
      return [...pools].sort((one, other) => of(one) - of(other));
    }

    showPool(element, pool) {
      const { held, limit } = pool;
      const bar = element.querySelector(".admission-bar");
      const said = fill(this.words.gauge, { held: number(held), limit: number(limit) });
      element.dataset.level = pool.state;
      element.id = `pool-${pool.name}`;
      this.write(element, "pool", pool);
      set(bar, { "aria-label": pool.name, "aria-valuemax": limit, "aria-valuenow": held, "aria-valuetext": said });
      set(bar.querySelector(".admission-bar-held"), { width: lengthOf(pool.share) });
      set(bar.querySelector(".admission-bar-warn"), { x: lengthOf(pool.warn_at) });
      const reasons = Object.entries(pool.refused).map(([name, count]) => ({ name, count }));
      this.arrange(element, "reasons", reasons, "name", (row, reason) => this.write(row, "reason", reason));
      this.arrange(element, "workers", shownOf(pool, this.words), "id", (row, worker) => this.showWorker(row, worker));
      this.showControls(element, pool);
      const classes = Object.entries(pool.classes).map(([name, held]) => ({ name, held }));
      this.arrange(element, "classes", classes, "name", (row, each) => this.write(row, "class", each));
      this.notice("classes", classes.length > 0, element);
      this.notice("delayed", pool.delayed > 0, element);
      this.notice("promised", pool.promised > 0, element);
      this.notice("refusals_held", pool.refusals_held > 0, element);
      this.notice("passed", pool.passed > 0, element);
      this.notice("unaccepted", pool.unaccepted > 0, element);
      this.notice("outlived", pool.outlived > 0, element);
      this.notice("channels_full", pool.channels_full > 0, element);
      this.notice("layer_failed", pool.layer_failed > 0, element);
      this.notice("evicted", pool.evicted > 0, element);
      this.notice("healed", pool.healed > 0, element);
      this.notice("lost", pool.lost > 0, element);
      this.notice("data_lost", "data_lost" in pool.latest, element);
      this.notice("reserve", pool.reserve > 0, element);
      this.notice("events_dropped", pool.events_dropped > 0, element);
      this.notice("alert", pool.alert !== pool.level, element);
      this.notice("speed", pool.speed !== null, element);
      const { worst } = pool.connects;
      this.arrange(element, "worst", worst, "at", (row, second) => this.write(row, "second", second));
      this.notice("worst", worst.length > 0, element);
      this.notice("workers", pool.workers.length > 0, element);
      this.notice("more", pool.workers.length > this.words.workersShown, element);
      this.notice("no-workers", pool.workers.length === 0, element);
    }

    showControls(element, pool) {
      const orders = ordersOf(pool, this.words);
      this.arrange(element, "orders", orders, "key", (row, order) => {
        this.write(row, "order", order);
        this.notice("drain", order.target !== "", row);
        this.aim(row, "target", order.target);
      });
      const states = { orders: orders.length > 0, limited: pool.controls.limit !== null, open: !pool.paused, paused: pool.paused, wet: !pool.dry_run, dry: pool.dry_run, differs: differing(pool.differs).length > 0, sites: "site" in pool.differs, fingerprints: pool.site !== null && pool.settings !== null, none_authenticated: pool.none_authenticated, releases: releasesOf(pool).length > 1, elsewhere: pool.elsewhere.held + pool.elsewhere.workers > 0 };
      Object.entries(states).forEach(([name, shown]) => this.notice(name, shown, element));
      this.aim(element, "pool", pool.name);
    }

    /** Set the targets that the forms inside send. */
    aim(scope, name, value) {
      for (const input of scope.querySelectorAll(`[data-target="${name}"]`)) {
        input.value = value;
      }
    }

    showWorker(row, worker) {
      this.write(row, "worker", worker);
      this.notice("draining", worker.draining, row);
      this.notice("silent", worker.silent, row);
      this.notice("alone", worker.failing > 0, row);
      this.notice("faults", Object.keys(worker.faults).length > 0, row);
      this.notice("drainable", !worker.draining, row);
      this.aim(row, "target", worker.id);
      this.arrange(row, "loads", worker.load, "name", (place, load) => {
        this.write(place, "load", load);
        place.toggleAttribute("data-pressed", load.pressure > 0);
      });
    }

    /** Draw the charts: the seconds with every fetch, the minutes less often, since they are many. */
    async showPast() {
      const withMinutes = performance.now() - this.minutesAt >= MINUTES_EVERY;
      const { pools } = await this.fetch(`${this.root.dataset.history}${withMinutes ? "?minutes" : ""}`);
      for (const figure of this.root.querySelectorAll("[data-chart]")) {
        const past = own(pools, figure.closest(".admission-pool").dataset.key);
        const series = past?.[figure.dataset.chart];
        if (series && past.error === null) {
          this.chart(figure).draw(series, past.now);
        }
      }
      if (withMinutes) {
        this.minutesAt = performance.now();
      }
    }

    chart(figure) {
      if (!this.charts.has(figure)) {
        const words = { chart: this.words.chart, fill, reasonOf: (name) => reasonOf(name, this.words) };
        this.charts.set(figure, new AdmissionChart(figure, words));
      }
      return this.charts.get(figure);
    }

    /** Make the children of a list, if `scope` has one, match `items` in their order. */
    arrange(scope, name, items, key, show) {
      const list = scope.querySelector(`[data-list="${name}"]`);
      if (list === null) {
        return;
      }
      const left = new Map([...list.children].map((child) => [child.dataset.key, child]));
      items.forEach((item, place) => {
        const child = left.get(String(item[key])) ?? this.make(name, item[key]);
        left.delete(String(item[key]));
        show(child, item);
        if (list.children[place] !== child) {
          list.insertBefore(child, list.children[place] ?? null);
        }
      });
      left.forEach((child) => child.remove());
    }

    make(name, key) {
      const form = this.root.querySelector(`template[data-item="${name}"]`);
      const child = form.content.firstElementChild.cloneNode(true);
      child.dataset.key = key;
      return child;
    }

    write(scope, kind, item) {
      for (const place of scope.querySelectorAll(`[data-field^="${kind}."]`)) {
        say(place, FIELDS[place.dataset.field](item, this.words));
      }
    }

    notice(name, shown, scope = this.root) {
      for (const place of scope.querySelectorAll(`[data-notice="${name}"]`)) {
        place.hidden = !shown;
      }
    }

    stale(isStale) {
      this.root.toggleAttribute("data-stale", isStale);
      this.notice("live", !isStale);
      this.notice("stale", isStale && this.taken !== null);
      this.notice("blank", isStale && this.taken === null);
      this.showAge();
    }

    showAge() {
      for (const place of this.root.querySelectorAll('[data-field="age"]')) {
        say(place, duration((performance.now() - (this.taken ?? performance.now())) / 1000, this.words.durations));
      }
    }

    /** Announce only changed states to a screen reader: the numbers change all the time. */
    announce(pools) {
      const changed = pools.filter((pool) => this.states.has(pool.name) && this.states.get(pool.name) !== pool.state);
      pools.forEach((pool) => this.states.set(pool.name, pool.state));
      if (changed.length > 0) {
        const sentences = changed.map(({ name, held, limit }) =>
          fill(this.words.change, {
            pool: name,
            level: own(this.words.state, this.states.get(name)) ?? this.states.get(name),
            held: number(held),
            limit: number(limit),
          }),
        );
        say(this.root.querySelector("[data-announcement]"), sentences.join(" "));
      }
    }
  }

  function say(place, text) {
    if (place.textContent !== text) {
      place.textContent = text;
    }
  }

  function set(element, attributes) {
    for (const [name, value] of Object.entries(attributes)) {
      element.setAttribute(name, value);
    }
  }

  for (const root of document.querySelectorAll("[data-admission]:not([data-running])")) {
    root.dataset.running = "";
    new Board(root).start();
  }
})();
