// Connections that the page must give up by itself: silent ones, endless attempts, and those of a page that was left.
import assert from "node:assert/strict";
import { beforeEach, describe, it } from "node:test";

import { AdmissionSocket, Page } from "./fakes.mjs";

const { CONNECTING, OPEN, CLOSING, CLOSED } = AdmissionSocket;
const SETTLE = 100;
const FLOOR = 500;
const CONNECT = 60_000;
const ANSWER = 5000;
const TICKET = "ZDzeqmQ84qoqGh5SPe0XbA3_";

let page;

beforeEach(() => {
  page = new Page();
});

function opened(options = {}, url = undefined) {
  const socket = page.open(options, [], url);
  page.attempt.accept();
  page.clock.advance(SETTLE);
  assert.equal(socket.readyState, OPEN);
  return socket;
}

/** What the page hears of a connection that was given up. */
function isGivenUp(socket, reason) {
  assert.equal(socket.readyState, CLOSED);
  assert.deepEqual([socket.waiting.code, socket.waiting.reason], [1006, reason]);
  assert.deepEqual(socket.seen.slice(-2), [1006, "wait"]);
}

/** Have the events of a connection that was given up come after all. */
function comeLate(socket, attempt) {
  const [seen, made] = [socket.seen.length, page.attempts.length];
  attempt.accept();
  attempt.say("late");
  attempt.drop();
  attempt.end(1000);
  assert.deepEqual([socket.seen.length, page.attempts.length], [seen, made]);
}

describe("an attempt without an end", () => {
  it("is given up after a minute, and tried again", () => {
    const socket = page.open();
    page.clock.advance(CONNECT - 1);
    assert.equal(socket.readyState, CONNECTING);
    page.clock.advance(1);
    isGivenUp(socket, "timeout");
    assert.deepEqual(socket.seen, [1006, "wait"]);
    assert.deepEqual(page.attempt.closed, [undefined, ""]);
    // The package ws ends the process by an error that nobody hears.
    assert.equal(typeof page.attempt.onerror, "function");
    assert.deepEqual([socket.waiting.attempt, socket.waiting.hinted, socket.waiting.delay], [1, false, 750]);
    comeLate(socket, page.attempt);
    page.clock.advance(750);
    assert.equal(page.attempts.length, 2);
  });

  it("counts as a failure: the waits grow, and the retries end", () => {
    page.random = 1;
    const socket = page.open({ connectTimeout: 1000, maxAttempts: 3 });
    const waits = [];
    socket.onwait = () => waits.push(socket.waiting.delay);
    page.clock.advance(1e8);
    assert.deepEqual(waits, [1000, 2000, 4000]);
    assert.deepEqual([page.attempts.length, socket.waiting, page.clock.pending], [4, null, 0]);
  });

  it("keeps the ticket", () => {
    const socket = page.open();
    page.failAndWait((attempt) => attempt.refuse(`Try Again Later; ticket=${TICKET}; retry-after=7`));
    page.clock.advance(CONNECT);
    assert.equal(socket.waiting.hasPlace, true);
    page.clock.advance(60_000);
    assert.equal(page.attempt.url, `ws://server/?admission_ticket=${TICKET}`);
  });

  it("may take longer by choice, or for ever", () => {
    page.open({ connectTimeout: Infinity });
    assert.equal(page.clock.pending, 0);
    page.open({ connectTimeout: 90_000 });
    page.clock.advance(89_999);
    assert.deepEqual([page.attempts.length, page.attempt.closed], [2, null]);
  });

  it("is no longer one when it opens, whether or not it has settled", () => {
    const socket = page.open({ settle: 90_000 });
    page.attempt.accept();
    page.clock.advance(CONNECT);
    assert.equal(socket.readyState, CONNECTING);
    page.clock.advance(30_000);
    assert.deepEqual(socket.seen, ["open"]);
    page.clock.advance(1e8);
    assert.deepEqual(socket.seen, ["open"]);
    assert.equal(page.attempts.length, 1);
  });

  it("has the page's say like any other end", () => {
    const isFinal = ({ code, reason, wasClean }) => code === 1006 && reason === "timeout" && !wasClean;
    const socket = page.open({ isFinal });
    page.clock.advance(1e8);
    assert.deepEqual([socket.seen, socket.waiting, page.attempts.length], [[1006], null, 1]);
  });
});

describe("a silent connection", () => {
  it("is left alone by default, for ever", () => {
    const socket = opened();
    assert.equal(page.clock.pending, 0);
    page.clock.advance(1e9);
    for (const isAway of [true, false]) page.connectNetwork(!isAway);
    for (const isAway of [true, false]) page.show(!isAway);
    assert.deepEqual([socket.readyState, page.attempt.sent], [OPEN, []]);
  });

  it("is given up when no message has come for so long", () => {
    const socket = opened({ maxSilence: 30_000 });
    page.clock.advance(29_999);
    page.attempt.say("here");
    page.clock.advance(29_999);
    assert.equal(socket.readyState, OPEN);
    page.clock.advance(1);
    isGivenUp(socket, "silent");
    assert.deepEqual(socket.seen, ["open", "here", 1006, "wait"]);
    assert.deepEqual(page.attempt.closed, [undefined, ""]);
    comeLate(socket, page.attempts[0]);
    page.clock.advance(5000);
    assert.equal(page.attempts.length, 2);
  });

  it("is asked first, and given up within the same time", () => {
    const socket = opened({ maxSilence: 30_000, ping: '{"type":"ping"}' });
    page.clock.advance(30_000 - ANSWER - 1);
    assert.deepEqual(page.attempt.sent, []);
    page.clock.advance(1);
    assert.deepEqual(page.attempt.sent, ['{"type":"ping"}']);
    page.clock.advance(ANSWER - 1);
    assert.equal(socket.readyState, OPEN);
    page.clock.advance(1);
    isGivenUp(socket, "silent");
  });

  it("is kept by any message, and asked again", () => {
    let count = 0;
    const socket = opened({ maxSilence: 30_000, ping: () => `ping ${(count += 1)}` });
    for (let round = 1; round <= 100; round += 1) {
      page.clock.advance(25_000);
      assert.equal(page.attempt.sent.at(-1), `ping ${round}`);
      page.clock.advance(ANSWER - 1);
      page.attempt.say("any");
      page.clock.advance(1);
      page.attempt.say("other");
    }
    assert.deepEqual([count, socket.readyState, page.clock.pending], [100, OPEN, 1]);
  });

  it("is not asked while messages come", () => {
    opened({ maxSilence: 30_000, ping: "ping" });
    for (let round = 0; round < 100; round += 1) {
      page.clock.advance(24_999);
      page.attempt.say("tick");
    }
    assert.deepEqual(page.attempt.sent, []);
  });

  it("is asked in the middle of a time that is shorter than two answers", () => {
    const socket = opened({ maxSilence: 4000, ping: "ping" });
    page.clock.advance(2000);
    assert.deepEqual(page.attempt.sent, ["ping"]);
    page.clock.advance(2000);
    isGivenUp(socket, "silent");
  });

  it("counts as a loss: the first retry has its window, and failures add up however short the silence", () => {
    page.random = 1;
    const socket = opened({ maxSilence: 10_000 });
    page.clock.advance(10_000);
    assert.equal(socket.waiting.delay, 5000);
    socket.close();
    page = new Page();
    page.random = 1;
    const hasty = page.open({ maxSilence: 1 });
    const waits = [];
    hasty.onwait = () => waits.push(hasty.waiting.delay);
    for (let round = 0; round < 4; round += 1) {
      page.attempt.accept();
      while (hasty.waiting === null) page.clock.step();
      page.clock.advance(hasty.waiting.delay);
    }
    assert.deepEqual(waits, [5000, 2000, 4000, 8000]);
  });

  it("is watched from every open on, and not before", () => {
    const socket = page.open({ maxSilence: 10_000, settle: 20_000 });
    page.attempt.accept();
    page.clock.advance(20_000 + 9999);
    assert.equal(socket.readyState, OPEN);
    page.clock.advance(1);
    page.clock.advance(5000);
    page.attempt.accept();
    page.attempt.say("hello");
    page.clock.advance(9999);
    assert.equal(socket.readyState, OPEN);
    page.clock.advance(1);
    isGivenUp(socket, "silent");
  });

  it("that the page is closing, or whose attempt waits, is not watched", () => {
    const socket = opened({ maxSilence: 10_000, ping: "ping" });
    socket.close();
    assert.equal(page.clock.pending, 0);
    page.show(true);
    page.connectNetwork(true);
    assert.deepEqual([socket.readyState, page.attempt.sent], [CLOSING, []]);
    page.attempt.end(1000);
    const other = opened({ maxSilence: 10_000, ping: "ping" });
    page.attempt.refuse("retry-after=3600");
    page.clock.advance(3_599_999);
    assert.equal(other.seen.at(-1), "wait");
    assert.equal(page.attempts.length, 2);
  });

  it("is not given up for a timer that the browser held back, until what came meanwhile had its turn", () => {
    for (const ping of [null, "ping"]) {
      page = new Page();
      const socket = opened({ maxSilence: 30_000, ping });
      const { clock } = page;
      clock.now += 600_000; // the page is frozen: neither timers nor messages
      clock.advance(0);
      assert.equal(socket.readyState, OPEN);
      page.attempt.say("from the time of the frost");
      clock.advance(2000);
      assert.equal(socket.readyState, OPEN);
      clock.advance(30_000);
      isGivenUp(socket, "silent");
    }
  });

  it("is given up although the browser holds back every timer", () => {
    const socket = opened({ maxSilence: 30_000, ping: "ping" });
    for (let minute = 0; minute < 5; minute += 1) {
      page.clock.now += 60_000;
      page.clock.advance(0);
    }
    assert.equal(socket.seen[1], 1006);
  });
});

describe("a page that is seen again, or online", () => {
  const back = {
    seen: () => [page.show(false), page.show(true)],
    online: () => [page.connectNetwork(false), page.connectNetwork(true)],
  };

  for (const [name, comeBack] of Object.entries(back)) {
    it(`asks at once when it is ${name} again, and gives the connection up without an answer`, () => {
      const socket = opened({ ping: "ping" });
      page.clock.advance(1e7);
      assert.deepEqual(page.attempt.sent, []);
      comeBack();
      assert.deepEqual(page.attempt.sent, ["ping"]);
      page.clock.advance(ANSWER - 1);
      assert.equal(socket.readyState, OPEN);
      page.clock.advance(1);
      isGivenUp(socket, "silent");
    });

    it(`keeps a connection that answers when it is ${name} again`, () => {
      const socket = opened({ ping: "ping", maxSilence: 60_000 });
      for (let round = 1; round <= 50; round += 1) {
        comeBack();
        assert.equal(page.attempt.sent.length, round);
        page.clock.advance(1000);
        page.attempt.say("pong");
        page.clock.advance(ANSWER);
      }
      assert.equal(socket.readyState, OPEN);
      page.clock.advance(60_000 - ANSWER);
      isGivenUp(socket, "silent");
    });

    it(`does not ask twice while an answer is due, however often it is ${name} again`, () => {
      const socket = opened({ ping: "ping", answerTimeout: 2000 });
      for (let round = 0; round < 20; round += 1) {
        comeBack();
        page.clock.advance(99);
      }
      assert.deepEqual(page.attempt.sent, ["ping"]);
      page.clock.advance(2000 - 20 * 99);
      isGivenUp(socket, "silent");
    });

    it(`does not ask without a ping when it is ${name} again`, () => {
      const socket = opened({ maxSilence: 30_000 });
      page.clock.advance(29_000);
      comeBack();
      page.clock.advance(999);
      assert.deepEqual([socket.readyState, page.attempt.sent], [OPEN, []]);
    });
  }

  it("does not ask while it is hidden, unless its retries do not wait for that either", () => {
    opened({ ping: "ping" });
    page.show(false);
    for (const isOnline of [false, true]) page.connectNetwork(isOnline);
    assert.deepEqual(page.attempt.sent, []);
    page.show(true);
    opened({ ping: "ping", pauseHidden: false });
    page.attempt.say("hello");
    page.document.visibilityState = "hidden";
    for (const isOnline of [false, true]) page.connectNetwork(isOnline);
    assert.deepEqual(page.attempt.sent, ["ping"]);
  });

  it("may close the socket, or have it reconnect, in its ping", () => {
    for (const act of ["close", "reconnect"]) {
      page = new Page();
      const acts = { close: () => socket.close(), reconnect: () => socket.reconnect({ force: true }) };
      const socket = opened({ ping: () => { acts[act](); return "ping"; } });
      page.connectNetwork(true);
      assert.deepEqual([page.attempt.sent, page.attempt.bufferedAmount], [[], 0]);
      assert.equal(page.clock.pending, act === "close" ? 0 : 1);
    }
  });

  it("does not ask in a connection that is not open yet, or no longer", () => {
    for (const prepare of [() => {}, (attempt) => attempt.accept(), (attempt) => { attempt.readyState = CLOSING; }]) {
      page = new Page();
      const socket = page.open({ ping: "ping", settle: 10_000 });
      prepare(page.attempt);
      page.connectNetwork(true);
      page.clock.advance(ANSWER);
      assert.deepEqual([page.attempt.sent, socket.seen], [[], []]);
    }
  });

  it("asks in each connection anew", () => {
    opened({ ping: "ping" });
    page.connectNetwork(true);
    page.clock.advance(ANSWER + 5000);
    page.attempt.accept();
    page.clock.advance(SETTLE);
    page.connectNetwork(true);
    assert.deepEqual(page.attempts.map(({ sent }) => sent), [["ping"], ["ping"]]);
  });

  it("gives the connection up if its ping fails", () => {
    const socket = opened({ maxSilence: 30_000, ping: () => { throw new Error("no ping"); } });
    assert.throws(() => page.clock.advance(25_000), { message: "no ping" });
    page.clock.advance(ANSWER);
    isGivenUp(socket, "silent");
  });
});

describe("a forced reconnect()", () => {
  const states = {
    connecting: () => page.open(),
    settling: () => {
      const socket = page.open();
      page.attempt.accept();
      return socket;
    },
    open: () => opened(),
    closing: () => {
      const socket = opened();
      page.attempt.readyState = CLOSING;
      return socket;
    },
    "being closed by the page": () => {
      const socket = opened();
      socket.close();
      return socket;
    },
  };

  for (const [name, prepare] of Object.entries(states)) {
    it(`gives up a connection that is ${name}, and connects after the floor`, () => {
      const socket = prepare();
      const [first] = page.attempts;
      socket.reconnect({ force: true });
      isGivenUp(socket, "forced");
      assert.equal(first.readyState, CLOSING);
      assert.deepEqual([socket.waiting.delay, socket.waiting.attempt, page.attempts.length], [FLOOR, 1, 1]);
      comeLate(socket, first);
      page.clock.advance(FLOOR);
      page.attempt.accept();
      page.clock.advance(SETTLE);
      assert.deepEqual([socket.readyState, page.attempts.length], [OPEN, 2]);
    });
  }

  it("tries now instead of waiting, as without force", () => {
    const socket = page.open();
    page.attempt.refuse("retry-after=60");
    page.clock.advance(FLOOR);
    socket.reconnect({ force: true });
    assert.equal(page.attempts.length, 2);
  });

  it("never comes sooner than the floor, however often it is called", () => {
    const socket = opened();
    for (let passed = 0; passed < 10_000; passed += 50) {
      socket.reconnect({ force: true });
      page.clock.advance(50);
    }
    assert.equal(page.attempts.length, 1 + 10_000 / FLOOR);
  });

  it("has no say of isFinal or maxAttempts, and keeps what is queued", () => {
    const socket = opened({ isFinal: () => true, maxAttempts: 0, queue: 100 });
    socket.reconnect({ force: true });
    socket.send("kept");
    page.clock.advance(FLOOR);
    page.attempt.accept();
    page.clock.advance(SETTLE);
    assert.deepEqual(page.attempt.sent, ["kept"]);
  });
});

describe("a page that is left", () => {
  it("gives its connection up at once, and has another when it is shown again", () => {
    const socket = opened();
    page.leave();
    isGivenUp(socket, "left");
    assert.deepEqual(page.attempt.closed, [undefined, ""]);
    comeLate(socket, page.attempts[0]);
    page.clock.now += 194_000; // in the cache no timer fires
    page.comeBack();
    assert.equal(page.attempts.length, 2);
    page.attempt.accept();
    page.clock.advance(SETTLE);
    assert.deepEqual(socket.seen, ["open", 1006, "wait", "open"]);
  });

  it("does not connect while it is away, whoever asks, and tells so", () => {
    const socket = opened();
    page.leave();
    page.clock.advance(FLOOR);
    assert.equal(socket.waiting.paused, "cached");
    page.clock.advance(1e6);
    socket.reconnect();
    socket.reconnect({ force: true });
    page.clock.advance(1e6);
    page.show(true);
    page.connectNetwork(true);
    assert.equal(page.attempts.length, 1);
    page.comeBack();
    assert.equal(page.attempts.length, 2);
  });

  it("comes back no sooner than the floor", () => {
    opened();
    for (let round = 0; round < 10; round += 1) {
      page.leave();
      page.comeBack();
      page.clock.advance(10);
    }
    assert.equal(page.attempts.length, 1);
    page.clock.advance(FLOOR - 10 * 10);
    assert.equal(page.attempts.length, 2);
  });

  it("keeps its wait and its ticket, and retries at once if the time has passed", () => {
    const socket = page.open();
    page.attempt.refuse(`Try Again Later; ticket=${TICKET}; retry-after=7`);
    page.leave();
    assert.deepEqual(socket.seen, [1013, "wait"]);
    page.clock.now += 6999;
    page.comeBack();
    assert.equal(page.attempts.length, 1);
    page.leave();
    page.clock.now += 1;
    page.comeBack();
    assert.equal(page.attempts.length, 2);
    assert.equal(page.attempt.url, `ws://server/?admission_ticket=${TICKET}`);
    page.leave();
    assert.equal(socket.waiting.hasPlace, true);
  });

  it("is no failure, and asks neither isFinal nor maxAttempts", () => {
    const socket = opened({ isFinal: () => true, maxAttempts: 0 });
    for (let round = 0; round < 5; round += 1) {
      page.leave();
      assert.equal(socket.waiting.attempt, 1);
      page.clock.now += FLOOR;
      page.comeBack();
      page.attempt.accept();
      page.clock.advance(SETTLE);
    }
    assert.equal(page.attempts.length, 6);
  });

  it("comes back with nothing after the end", () => {
    const ended = opened();
    ended.close();
    page.leave();
    page.comeBack();
    assert.deepEqual([ended.seen, page.attempt.closed], [["open"], [undefined, ""]]);
    page.attempt.end(1000);
    page.leave();
    page.comeBack();
    assert.equal(page.attempts.length, 1);
    page.clock.advance(FLOOR);
    ended.reconnect();
    page.attempt.accept();
    page.clock.advance(SETTLE);
    page.leave();
    isGivenUp(ended, "left");
  });

  it("hears in its close handler that it will come back, and may say no", () => {
    const socket = opened();
    socket.onclose = () => {
      assert.equal(socket.waiting.delay, FLOOR);
      socket.close();
    };
    page.leave();
    page.clock.now += FLOOR;
    page.comeBack();
    assert.deepEqual([page.attempts.length, socket.waiting], [1, null]);
  });

  it("does nothing when it is shown for the first time", () => {
    opened({ ping: "ping" });
    page.events.dispatchEvent(new Event("pageshow"));
    assert.deepEqual([page.attempts.length, page.attempt.sent], [1, []]);
  });
});

describe("what the browser keeps for a socket", () => {
  it("is nothing after the end", () => {
    const heard = [];
    const listening = (target) => ({
      addEventListener: (type) => heard.push(type),
      removeEventListener: (type) => heard.splice(heard.indexOf(type), 1),
      visibilityState: target.visibilityState,
    });
    const platform = { ...page.platform, document: listening(page.document), events: listening(page.events) };
    const socket = page.open({ platform, ping: "ping", maxSilence: 1000 });
    assert.deepEqual(heard.sort(), ["online", "pagehide", "pageshow", "visibilitychange"]);
    page.attempt.end(4000);
    assert.deepEqual([heard, page.clock.pending, socket.waiting], [[], 0, null]);
  });
});
