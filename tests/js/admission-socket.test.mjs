import assert from "node:assert/strict";
import { beforeEach, describe, it } from "node:test";

import { AdmissionSocket, EPOCH, Page } from "./fakes.mjs";

const { CONNECTING, OPEN, CLOSING, CLOSED } = AdmissionSocket;
const SETTLE = 100;
const FLOOR = 500;

let page;

beforeEach(() => {
  page = new Page();
});

/** A socket that is open, on a connection that has been so for `uptime` milliseconds. */
function opened(options = {}, uptime = SETTLE) {
  const socket = page.open(options);
  page.attempt.accept();
  page.clock.advance(uptime);
  assert.equal(socket.readyState, OPEN);
  return socket;
}

describe("as a WebSocket", () => {
  it("has the constants on the class and on every socket", () => {
    const socket = page.open();
    for (const [name, value] of Object.entries({ CONNECTING: 0, OPEN: 1, CLOSING: 2, CLOSED: 3 })) {
      assert.equal(AdmissionSocket[name], value);
      assert.equal(socket[name], value);
      assert.throws(() => { AdmissionSocket[name] = 9; }, TypeError);
    }
  });

  it("asks for the URL and the subprotocols it was given, at every attempt", () => {
    const socket = page.open({}, ["chat.v2", "chat.v1"]);
    page.failAndWait();
    page.attempt.accept("chat.v1");
    assert.deepEqual(page.attempts.map(({ url }) => url), ["ws://server/", "ws://server/"]);
    assert.deepEqual(page.attempts.map(({ protocols }) => protocols), Array(2).fill(["chat.v2", "chat.v1"]));
    assert.equal(socket.url, "ws://server/");
    assert.equal(socket.protocol, "chat.v1");
    assert.equal(socket.extensions, "");
  });

  it("fails at once for a wrong URL", () => {
    assert.throws(() => new AdmissionSocket("gopher://x/", [], { platform: page.platform }), { name: "SyntaxError" });
  });

  it("says what to pass where the platform has no WebSocket", () => {
    const platform = { ...page.platform, WebSocket: undefined };
    const told = /^TypeError: AdmissionSocket needs a WebSocket, .*new AdmissionSocket\(url, \[\], \{ platform: \{ WebSocket \} \}\)$/;
    assert.throws(() => new AdmissionSocket("ws://server/", [], { platform }), (error) => told.test(String(error)));
  });

  it("works in Node with nothing but a WebSocket whose events are of classes of its own", () => {
    const { WebSocket, now, setTimeout, clearTimeout, random } = page.platform;
    class Foreign extends WebSocket {
      #as(name) {
        const listener = this[name];
        this[name] = ({ type, data, code, reason, wasClean }) => listener({ type, data, code, reason, wasClean });
      }

      foreign() {
        for (const name of ["onopen", "onmessage", "onerror", "onclose"]) this.#as(name);
      }
    }
    const socket = page.open({ platform: { WebSocket: Foreign, now, setTimeout, clearTimeout, random } });
    page.attempt.foreign();
    page.attempt.accept();
    page.attempt.say("hello");
    page.attempt.end(1013, "Try Again Later; retry-after=7");
    assert.deepEqual(socket.seen, ["open", "hello", 1013, "wait"]);
    assert.equal(socket.waiting.delay, 7000);
  });

  it("gives up a silent connection in Node, which has no CloseEvent", () => {
    const { WebSocket, now, setTimeout, clearTimeout, random } = page.platform;
    const platform = { WebSocket, now, setTimeout, clearTimeout, random };
    const socket = page.open({ platform, connectTimeout: 1000 });
    page.clock.advance(1000);
    assert.deepEqual(socket.seen, [1006, "wait"]);
    assert.equal(socket.waiting.reason, "timeout");
  });

  it("calls on… handlers with itself as this, and forgets them when told to", () => {
    const socket = page.open();
    const calls = [];
    socket.onopen = () => calls.push("replaced");
    socket.onopen = function (event) { calls.push(this === socket, event.type); };
    socket.onmessage = () => calls.push("never");
    socket.onmessage = null;
    socket.onclose = "no function";
    assert.equal(socket.onmessage, null);
    assert.equal(socket.onclose, null);
    assert.equal(typeof socket.onopen, "function");
    page.attempt.accept();
    page.attempt.say("hello");
    page.attempt.end(1000);
    assert.deepEqual(calls, [true, "open"]);
  });

  it("keeps the binary type over attempts, and ignores a wrong one", () => {
    const socket = page.open();
    assert.equal(socket.binaryType, "blob");
    socket.binaryType = "arraybuffer";
    socket.binaryType = "sonnet";
    page.failAndWait();
    assert.equal(page.attempt.binaryType, "arraybuffer");
    assert.equal(socket.binaryType, "arraybuffer");
  });

  it("sends while open, throws while connecting, and counts what is lost while closed", () => {
    const socket = page.open();
    assert.throws(() => socket.send("early"), { name: "InvalidStateError" });
    page.attempt.accept();
    assert.throws(() => socket.send("settling"), { name: "InvalidStateError" });
    page.clock.advance(SETTLE);
    socket.send("now");
    assert.deepEqual(page.attempt.sent, ["now"]);
    page.attempt.drop();
    socket.send("lost");
    assert.equal(socket.bufferedAmount, 4);
    page.clock.advance(FLOOR + 5000);
    assert.equal(socket.bufferedAmount, 0);
    assert.deepEqual(page.attempt.sent, []);
  });

  it("closes with the code and the reason it is given, and refuses wrong ones without ending", () => {
    const socket = opened();
    assert.throws(() => socket.close(1001), { name: "InvalidAccessError" });
    assert.throws(() => socket.close(1000, "é".repeat(62)), { name: "SyntaxError" });
    assert.equal(socket.readyState, OPEN);
    socket.close(4000, "enough");
    assert.equal(socket.readyState, CLOSING);
    assert.deepEqual(page.attempt.closed, [4000, "enough"]);
    page.attempt.end(4000, "enough");
    assert.equal(socket.readyState, CLOSED);
    page.clock.advance(1e8);
    assert.equal(page.attempts.length, 1);
  });

  it("gives up an attempt that is closed while connecting or settling", () => {
    for (const prepare of [() => {}, () => page.attempt.accept()]) {
      const socket = page.open();
      prepare();
      socket.close();
      assert.equal(socket.readyState, CLOSING);
      page.attempt.end(1006);
      page.clock.advance(1e8);
      assert.deepEqual(socket.seen, [1006]);
    }
    assert.equal(page.attempts.length, 2);
  });

  it("refuses options that it does not have, and values that they cannot have", () => {
    const wrong = [{ jitter: 1 }, { floor: -1 }, { cap: "60" }, { base: NaN }, { isFinal: 1000 }, { toString: 1 },
      { ping: 1 }, { ping: {} }, { maxSilence: 0 }, { connectTimeout: 0 }, { answerTimeout: 0 }, { maxSilence: null },
      // A timer takes Infinity, and the NaN that comes of it, for no wait at all.
      ...["settle", "floor", "base", "cap", "firstRetryWindow"].map((name) => ({ [name]: Infinity }))];
    for (const options of wrong) assert.throws(() => page.open(options), TypeError);
    assert.equal(page.attempts.length, 0);
    page.open({ floor: undefined });
  });
});

describe("what a page hears", () => {
  it("hears of an open connection once it has settled", () => {
    const socket = page.open();
    page.attempt.accept();
    page.clock.advance(SETTLE - 1);
    assert.deepEqual([socket.seen, socket.readyState], [[], CONNECTING]);
    page.clock.advance(1);
    assert.deepEqual([socket.seen, socket.readyState], [["open"], OPEN]);
  });

  it("hears of it at once when a message comes", () => {
    const socket = page.open();
    page.attempt.accept();
    page.attempt.say("welcome");
    page.clock.advance(SETTLE);
    assert.deepEqual(socket.seen, ["open", "welcome"]);
  });

  it("hears of it at once without settling", () => {
    const socket = page.open({ settle: 0 });
    page.attempt.accept();
    assert.deepEqual(socket.seen, ["open"]);
  });

  it("hears no open of a refused attempt", () => {
    const socket = page.open();
    page.attempt.refuse();
    page.clock.advance(6999);
    assert.deepEqual([socket.seen, socket.readyState], [[1013, "wait"], CLOSED]);
  });

  it("hears no open of a connection that is already ending when it would have settled", () => {
    const socket = page.open();
    page.attempt.accept();
    page.attempt.readyState = CLOSING;
    page.clock.advance(SETTLE);
    page.attempt.end(1013);
    assert.deepEqual(socket.seen, [1013, "wait"]);
  });

  it("hears of every connection anew", () => {
    const socket = opened();
    page.failAndWait();
    page.attempt.accept();
    assert.equal(socket.readyState, CONNECTING);
    page.clock.advance(SETTLE);
    assert.deepEqual(socket.seen, ["open", "error", 1006, "wait", "open"]);
  });

  it("hears the same of a server that is not there as from WebSocket, at every attempt", () => {
    const socket = page.open();
    page.failAndWait();
    page.failAndWait();
    assert.deepEqual(socket.seen, ["error", 1006, "wait", "error", 1006, "wait"]);
  });

  it("gets code, reason and wasClean with the loss of a connection, and knows by then what follows", () => {
    const socket = opened();
    socket.onclose = ({ code, reason, wasClean }) => {
      assert.deepEqual([code, reason, wasClean], [1012, "Service Restart; retry-after=1", true]);
      assert.equal(socket.waiting.remaining, 1000);
    };
    page.attempt.end(1012, "Service Restart; retry-after=1");
    assert.deepEqual(socket.seen, ["open", 1012, "wait"]);
  });

  it("may end it while it hears of a loss", () => {
    const socket = opened();
    socket.onclose = () => socket.close();
    page.attempt.drop();
    page.clock.advance(1e8);
    assert.deepEqual(socket.seen, ["open", "error", 1006]);
    assert.equal(socket.waiting, null);
    assert.equal(page.attempts.length, 1);
  });
});

describe("the wait", () => {
  it("is told in full", () => {
    const socket = page.open();
    page.attempt.refuse("Try Again Later; retry-after=7");
    const { waiting } = socket;
    assert.deepEqual({ ...waiting }, {
      attempt: 1,
      code: 1013,
      reason: "Try Again Later; retry-after=7",
      hinted: true,
      hasPlace: false,
      delay: 7000,
      retryAt: EPOCH + 7000,
      paused: null,
    });
    page.clock.advance(2500);
    assert.equal(waiting.remaining, 4500);
    assert.throws(() => { waiting.attempt = 0; }, TypeError);
    page.clock.advance(4500);
    assert.equal(socket.waiting, null);
    assert.equal(socket.readyState, CONNECTING);
    assert.equal(waiting.remaining, 0);
  });

  it("counts the attempts", () => {
    const socket = page.open();
    const counts = [];
    socket.onwait = () => counts.push(socket.waiting.attempt);
    for (let loss = 0; loss < 4; loss += 1) page.failAndWait();
    assert.deepEqual(counts, [1, 2, 3, 4]);
  });

  it("ends with close(), and with it everything", () => {
    const socket = page.open();
    page.attempt.refuse();
    assert.throws(() => socket.close(999), { name: "InvalidAccessError" });
    assert.notEqual(socket.waiting, null);
    socket.close();
    assert.equal(socket.waiting, null);
    assert.equal(page.clock.pending, 0);
    page.clock.advance(1e8);
    assert.equal(page.attempts.length, 1);
  });
});

describe("the hint", () => {
  for (const [text, delay] of [
    ["Try Again Later; retry-after=12", 12_000],
    ["Try Again Later; retry-after=12.3", 12_300],
    ["Try Again Later;retry-after=0.75", 750],
    ["retry-after=2", 2000],
    ["retry-after=3600", 3_600_000],
    ["voll; retry-after=5; retry-after=9", 9000],
    ["Try Again Later; retry-after=0", FLOOR],
    ["Try Again Later; retry-after=0.1", FLOOR],
  ]) {
    it(`is kept to the millisecond: ${text}`, () => {
      page.open();
      assert.equal(page.failAndWait((attempt) => attempt.refuse(text)), delay);
    });
  }

  for (const text of [
    "",
    "Try Again Later",
    "retry-after=",
    "retry-after=soon",
    "retry-after=NaN",
    "retry-after=Infinity",
    "retry-after=-5",
    "retry-after=+5",
    "retry-after=1e9",
    "retry-after=0x10",
    "retry-after=1,5",
    "retry-after=.5",
    "retry-after=5.",
    "retry-after=1.2345",
    "retry-after=5 ",
    "retry-after=5s",
    "retry-after=5; please",
    "retry-after=5\n",
    "retry-after =5",
    "Retry-After=5",
    "no-retry-after=5",
    "retry-after=3600.001",
    "retry-after=99999",
    "retry-after=100000",
    "retry-after=99999999999999999999",
    "retry-after=٣",
    "retry-after=５",
    "retry-after=²",
    `retry-after=${"9".repeat(10_000)}`,
    `${"; ".repeat(5000)}retry-after=x`,
    `;${" ".repeat(10_000)}`,
  ]) {
    it(`is no hint, and the backoff counts: ${JSON.stringify(text.slice(0, 40))}`, () => {
      const socket = page.open();
      page.random = 0.25;
      page.attempt.refuse(text);
      assert.equal(socket.waiting.hinted, false);
      assert.equal(socket.waiting.delay, FLOOR + 0.25 * FLOOR);
    });
  }

  it("may be longer by choice, but not for ever", () => {
    const options = { maxHint: 1e12 };
    page.open(options);
    assert.equal(page.failAndWait((attempt) => attempt.refuse("retry-after=99999.999")), 99_999_999);
    const socket = page.open(options);
    page.attempt.refuse("retry-after=100000");
    assert.equal(socket.waiting.hinted, false);
  });

  it("is heard with every code, and wins over the first retry's window", () => {
    for (const code of [1001, 1011, 1012, 1013, 4013]) {
      page = new Page();
      opened({}, 60_000);
      assert.equal(page.failAndWait((attempt) => attempt.end(code, "x; retry-after=3")), 3000);
    }
  });

  it("of a server that is never content makes no attempt come sooner than the floor", () => {
    page.open();
    for (let loss = 0; loss < 50; loss += 1) {
      assert.ok(page.failAndWait((attempt) => attempt.refuse("retry-after=0")) >= FLOOR);
    }
  });
});

describe("the ticket", () => {
  const [FIRST, SECOND] = ["ZDzeqmQ84qoqGh5SPe0XbA3_", "ZD0B-GQ9BfgAmVvIw-k2e8Qz"];
  const refuse = (ticket) => (attempt) => attempt.refuse(`Try Again Later; ticket=${ticket}; retry-after=7`);
  const urls = () => page.attempts.map(({ url }) => url);

  it("goes into the URL of the next attempt, and not into that of the page", () => {
    const socket = page.open();
    page.failAndWait(refuse(FIRST));
    page.failAndWait(refuse(SECOND));
    assert.deepEqual(urls(), ["ws://server/", ...[FIRST, SECOND].map((ticket) => `ws://server/?admission_ticket=${ticket}`)]);
    assert.equal(socket.url, "ws://server/");
  });

  for (const [given, asked] of [
    ["ws://server/room?a=b%20c&flag&&d=%c3%a9+/?", "ws://server/room?a=b%20c&flag&&d=%c3%a9+/?&admission_ticket="],
    ["ws://server/room?", "ws://server/room?admission_ticket="],
    ["ws://server/?admission_ticket=old&a=1&admission_ticket=", "ws://server/?a=1&admission_ticket="],
    ["ws://server/?admission_tickets=1", "ws://server/?admission_tickets=1&admission_ticket="],
    ["ws://server/?x_admission_ticket=1", "ws://server/?x_admission_ticket=1&admission_ticket="],
  ]) {
    it(`leaves the rest of the URL as it is: ${given}`, () => {
      const socket = page.open({}, [], given);
      page.failAndWait(refuse(FIRST));
      assert.deepEqual(urls(), [given, asked + FIRST]);
      assert.equal(socket.url, given);
    });
  }

  it("goes into the URL as it was when the socket was made", () => {
    const url = new URL("ws://server/room");
    const socket = page.open({}, [], url);
    url.pathname = "/other";
    page.failAndWait(refuse(FIRST));
    assert.equal(page.attempt.url, `ws://server/room?admission_ticket=${FIRST}`);
    assert.equal(socket.url, "ws://server/room");
  });

  it("is told by the wait, before the page hears of the close", () => {
    const socket = page.open();
    const places = [];
    socket.onclose = socket.onwait = () => places.push(socket.waiting.hasPlace);
    page.failAndWait(refuse(FIRST));
    page.failAndWait((attempt) => attempt.drop());
    page.failAndWait((attempt) => attempt.refuse());
    assert.deepEqual(places, [true, true, true, true, false, false]);
  });

  it("is kept while the page is hidden, and told so", () => {
    const socket = page.open();
    page.show(false);
    refuse(FIRST)(page.attempt);
    page.clock.advance(7000);
    assert.deepEqual([socket.waiting.paused, socket.waiting.hasPlace], ["hidden", true]);
    page.show(true);
    assert.equal(page.attempt.url, `ws://server/?admission_ticket=${FIRST}`);
  });

  it("is dropped when a message comes, however soon", () => {
    page.open();
    page.failAndWait(refuse(FIRST));
    page.attempt.accept();
    page.attempt.say("welcome");
    page.failAndWait();
    assert.equal(page.attempt.url, "ws://server/");
  });

  it("goes with an attempt that the page asks for, also after the end", () => {
    const socket = page.open({ maxAttempts: 1 });
    refuse(FIRST)(page.attempt);
    page.clock.advance(FLOOR);
    socket.reconnect();
    page.attempt.drop();
    assert.equal(socket.waiting, null);
    page.clock.advance(FLOOR);
    socket.reconnect();
    refuse(SECOND)(page.attempt);
    socket.close();
    page.clock.advance(FLOOR);
    socket.reconnect();
    assert.deepEqual(urls().slice(1), [FIRST, FIRST, SECOND].map((ticket) => `ws://server/?admission_ticket=${ticket}`));
  });

  it("is not read from an endless reason in endless time", () => {
    const long = ["; ticket=".repeat(20_000), `ticket=${FIRST}; `.repeat(5000), `;${" ".repeat(20_000)}`.repeat(3)];
    for (const text of long) {
      const socket = page.open();
      page.attempt.refuse(text);
      assert.equal(socket.waiting.hasPlace, false);
    }
  });
});

describe("the backoff", () => {
  const longest = (random, losses, options) => {
    page = new Page();
    page.random = random;
    page.open(options);
    return Array.from({ length: losses }, () => page.failAndWait());
  };

  it("grows to a minute at most", () => {
    assert.deepEqual(longest(1, 8), [1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]);
  });

  it("never falls under the floor", () => {
    assert.deepEqual(longest(0, 8), Array(8).fill(FLOOR));
  });

  it("is spread evenly in between", () => {
    assert.deepEqual(longest(0.5, 3), [750, 1250, 2250]);
  });

  it("keeps its length after any number of failures, and of nothing", () => {
    assert.equal(longest(1, 1100, { cap: 600 }).at(-1), 600);
    assert.equal(longest(1, 1100, { base: 0 }).at(-1), FLOOR);
  });

  it("asks for no longer timer than there is", () => {
    page.random = 1;
    const socket = page.open({ base: 1e12, cap: 1e12 });
    page.attempt.drop();
    assert.equal(socket.waiting.delay, 2 ** 31 - 1);
  });

  it("is not reset by a connection that opens, but by one that stays open", () => {
    page.random = 1;
    const socket = page.open({ firstRetryWindow: 3000 });
    const waits = [];
    socket.onwait = () => waits.push(socket.waiting.delay);
    page.failAndWait();
    for (const uptime of [0, SETTLE, 4999, 5000, 5001, 0]) {
      page.attempt.accept();
      page.clock.advance(uptime);
      page.failAndWait();
    }
    assert.deepEqual(waits, [1000, 2000, 4000, 8000, 3000, 3000, 2000]);
  });

  it("spreads the first retry after the loss of an open connection over its window", () => {
    for (const [random, delay] of [[0, 500], [0.5, 2750], [1, 5000]]) {
      page.random = random;
      opened();
      assert.equal(page.failAndWait(), delay);
    }
    page = new Page();
    page.random = 1;
    opened({ firstRetryWindow: 30_000 });
    assert.equal(page.failAndWait(), 30_000);
  });
});

describe("the end", () => {
  const retries = (code, reason = "", options = {}) => {
    const socket = opened(options);
    page.attempt.end(code, reason);
    return socket.waiting !== null;
  };

  it("comes with the codes that nothing passing has", () => {
    for (const code of [1000, 1002, 1003, 1007, 1008, 1009, 1010, 3000, 4000, 4012, 4014, 4409, 4999]) {
      assert.equal(retries(code), false, code);
    }
    for (const code of [1001, 1005, 1006, 1011, 1012, 1013, 1014, 1015, 4013]) {
      assert.equal(retries(code), true, code);
    }
  });

  it("does not come when the server says when to come back", () => {
    assert.equal(retries(4029, "Busy; retry-after=4"), true);
  });

  it("comes when the page says so, which may ask for the usual", () => {
    const isFinal = (event) => event.code === 1013 || (event.code !== 4100 && AdmissionSocket.isFinal(event));
    assert.equal(retries(1013, "retry-after=4", { isFinal }), false);
    assert.equal(retries(4100, "", { isFinal }), true);
    assert.equal(retries(4101, "", { isFinal }), false);
  });

  it("comes after so many retries in a row", () => {
    const socket = page.open({ maxAttempts: 2 });
    page.failAndWait();
    page.failAndWait();
    page.attempt.drop();
    page.clock.advance(1e8);
    assert.equal(page.attempts.length, 3);
    assert.equal(socket.waiting, null);
    assert.equal(socket.readyState, CLOSED);
    assert.equal(page.clock.pending, 0);
  });
});

describe("reconnect()", () => {
  it("tries now instead of waiting", () => {
    const socket = page.open();
    page.attempt.refuse("retry-after=60");
    page.clock.advance(FLOOR);
    socket.reconnect();
    assert.equal(page.attempts.length, 2);
    assert.equal(socket.readyState, CONNECTING);
    assert.equal(page.clock.pending, 1); // the limit for connecting
  });

  it("keeps to the floor, however often it is called", () => {
    const socket = page.open();
    page.attempt.refuse("retry-after=60");
    for (let passed = 0; passed < FLOOR; passed += 100) {
      socket.reconnect();
      assert.equal(page.attempts.length, 1);
      assert.equal(socket.waiting.remaining, FLOOR - passed);
      page.clock.advance(100);
    }
    assert.equal(page.attempts.length, 2);
    assert.deepEqual(socket.seen.slice(0, 3), [1013, "wait", "wait"]);
  });

  it("starts again after the end, with every retry", () => {
    const socket = page.open({ maxAttempts: 1 });
    page.failAndWait();
    page.attempt.drop();
    page.clock.advance(FLOOR);
    socket.reconnect();
    assert.equal(page.attempts.length, 3);
    page.attempt.drop();
    assert.equal(socket.waiting.attempt, 1);
    socket.close();
    socket.reconnect();
    page.clock.advance(FLOOR);
    assert.equal(page.attempts.length, 4);
  });

  it("does nothing while there is a connection, an attempt or an end under way", () => {
    const socket = page.open();
    socket.reconnect();
    socket.reconnect({});
    socket.reconnect({ force: false });
    page.attempt.accept();
    socket.reconnect();
    page.clock.advance(SETTLE);
    socket.reconnect();
    socket.close();
    socket.reconnect();
    page.attempt.end(1000);
    page.clock.advance(1e8);
    assert.equal(page.attempts.length, 1);
  });

  it("tries although the page is hidden and offline", () => {
    const socket = page.open();
    page.show(false);
    page.connectNetwork(false);
    page.attempt.drop();
    page.clock.advance(60_000);
    assert.equal(page.attempts.length, 1);
    socket.reconnect();
    assert.equal(page.attempts.length, 2);
    page.show(true);
    page.connectNetwork(true);
    assert.equal(page.attempts.length, 2);
  });
});

describe("a page that nobody sees, or without a network", () => {
  const away = {
    hidden: (isAway) => page.show(!isAway),
    offline: (isAway) => page.connectNetwork(!isAway),
  };

  for (const [paused, be] of Object.entries(away)) {
    it(`retries when it is no longer ${paused}, and tells so`, () => {
      const socket = page.open();
      be(true);
      page.attempt.refuse("retry-after=7");
      page.clock.advance(6999);
      assert.equal(socket.waiting.paused, null);
      page.clock.advance(1e6);
      assert.deepEqual([socket.waiting.paused, socket.waiting.remaining], [paused, 0]);
      assert.deepEqual(socket.seen, [1013, "wait", "wait"]);
      be(true);
      assert.deepEqual(socket.seen, [1013, "wait", "wait"]);
      assert.equal(page.attempts.length, 1);
      be(false);
      assert.equal(page.attempts.length, 2);
      be(true);
      be(false);
      assert.equal(page.attempts.length, 2);
    });

    it(`does not come back from being ${paused} sooner than the server has asked`, () => {
      page.open();
      be(true);
      page.attempt.refuse("retry-after=7");
      be(false);
      page.clock.advance(6999);
      assert.equal(page.attempts.length, 1);
      page.clock.advance(1);
      assert.equal(page.attempts.length, 2);
    });

    it(`keeps an open connection while ${paused}`, () => {
      const socket = opened();
      be(true);
      page.clock.advance(1e7);
      assert.equal(socket.readyState, OPEN);
    });

    it(`makes the first attempt although ${paused}`, () => {
      be(true);
      page.open();
      assert.equal(page.attempts.length, 1);
    });

    it(`retries although ${paused} when told to`, () => {
      be(true);
      page.open({ pauseHidden: false, pauseOffline: false });
      assert.equal(page.failAndWait((attempt) => attempt.refuse("retry-after=7")), 7000);
    });

    it(`can be closed while ${paused}`, () => {
      const socket = page.open();
      be(true);
      page.attempt.drop();
      page.clock.advance(1e6);
      socket.close();
      be(false);
      page.clock.advance(1e6);
      assert.equal(socket.waiting, null);
      assert.equal(page.attempts.length, 1);
    });
  }

  it("waits for both", () => {
    const socket = page.open();
    page.show(false);
    page.connectNetwork(false);
    page.attempt.drop();
    page.clock.advance(1e6);
    assert.equal(socket.waiting.paused, "offline");
    page.connectNetwork(true);
    assert.equal(socket.waiting.paused, "hidden");
    page.show(true);
    assert.equal(page.attempts.length, 2);
  });

  it("may be no page at all, but a worker", () => {
    const platform = { ...page.platform, document: undefined };
    page.open({ platform });
    assert.ok(page.failAndWait() >= FLOOR);
  });
});

describe("the queue", () => {
  it("keeps what is sent while there is no connection, and sends it after what the page sends on opening", () => {
    const socket = page.open({ queue: 100 });
    socket.onopen = () => socket.send("first");
    socket.send("one");
    page.failAndWait();
    socket.send("two");
    page.attempt.accept();
    socket.send("three");
    assert.equal(socket.bufferedAmount, 11);
    page.clock.advance(SETTLE);
    assert.deepEqual(page.attempt.sent, ["first", "one", "two", "three"]);
    assert.equal(socket.bufferedAmount, 0);
  });

  it("is bounded in bytes of UTF-8", () => {
    const socket = page.open({ queue: 10 });
    socket.send("é".repeat(4));
    socket.send("");
    assert.throws(() => socket.send("ab"), { name: "QuotaExceededError" });
    socket.send("a");
    assert.throws(() => socket.send(""), { name: "QuotaExceededError" });
    assert.equal(socket.bufferedAmount, 10);
  });

  it("keeps buffers as they were when they were sent", () => {
    const socket = page.open({ queue: 100 });
    const bytes = new Uint8Array([1, 2, 3, 4]);
    socket.send(bytes.subarray(1, 3));
    socket.send(bytes.buffer);
    socket.send(new Blob(["blob"]));
    socket.send(5);
    bytes.fill(0);
    assert.equal(socket.bufferedAmount, 2 + 4 + 4 + 1);
    page.attempt.accept();
    page.clock.advance(SETTLE);
    const [view, buffer, blob, number] = page.attempt.sent;
    assert.deepEqual([...view], [2, 3]);
    assert.deepEqual([...new Uint8Array(buffer)], [1, 2, 3, 4]);
    assert.equal(blob.size, 4);
    assert.equal(number, "5");
  });

  it("is empty after the end, and keeps nothing then", () => {
    const socket = opened({ queue: 100 });
    page.attempt.drop();
    socket.send("lost");
    socket.close();
    assert.equal(socket.bufferedAmount, 0);
    socket.send("later");
    assert.equal(socket.bufferedAmount, 5);
    page.clock.advance(FLOOR);
    socket.reconnect();
    page.attempt.accept();
    page.clock.advance(SETTLE);
    assert.deepEqual(page.attempt.sent, []);
  });

  it("waits for the next connection if the page gives this one up as it opens", () => {
    const socket = page.open({ queue: 100 });
    socket.send("one");
    socket.addEventListener("open", () => socket.reconnect({ force: true }), { once: true });
    page.attempt.accept();
    page.clock.advance(SETTLE);
    socket.send("two");
    page.clock.advance(FLOOR);
    page.attempt.accept();
    page.clock.advance(SETTLE);
    assert.deepEqual(page.attempts.map(({ sent }) => sent), [[], ["one", "two"]]);
  });

  it("is not for a socket that the page is closing", () => {
    const socket = opened({ queue: 100 });
    socket.close();
    socket.send("late");
    assert.deepEqual(page.attempt.sent, []);
    assert.equal(socket.bufferedAmount, 4);
  });
});
