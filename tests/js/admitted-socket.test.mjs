import assert from "node:assert/strict";
import { beforeEach, describe, it } from "node:test";

import { AdmittedSocket, Page } from "./fakes.mjs";

const { CONNECTING, OPEN, CLOSING, CLOSED } = AdmittedSocket;
const SETTLE = 100;
const TICKET = "ZDzeqmQ84qoqGh5SPe0XbA3_";
const BUSY = `Try Again Later; ticket=${TICKET}; retry-after=7`;

let page;
let number = 0;
let url;

beforeEach(() => {
  page = new Page();
  // Waits are kept by URL, also beyond a test.
  number += 1;
  url = `ws://server/${number}`;
  AdmittedSocket.options = { platform: page.platform };
});

/** A socket as a library makes it, with its events noted in `seen`. */
function made(protocols = []) {
  const socket = new AdmittedSocket(url, protocols);
  socket.seen = [];
  for (const type of ["open", "message", "error", "close"]) {
    socket.addEventListener(type, (event) => socket.seen.push(event.data ?? event.code ?? event.type));
  }
  return socket;
}

function opened() {
  const socket = made();
  page.attempt.accept();
  page.clock.advance(SETTLE);
  assert.equal(socket.readyState, OPEN);
  return socket;
}

describe("before it is admitted", () => {
  it("is connecting, whatever becomes of its attempts, and hears of none", () => {
    const socket = made(["graphql-transport-ws"]);
    page.failAndWait((attempt) => attempt.refuse(BUSY));
    page.failAndWait();
    assert.equal(socket.readyState, CONNECTING);
    assert.equal(socket.protocol, "");
    assert.throws(() => socket.send("early"), { name: "InvalidStateError" });
    page.attempt.accept("graphql-transport-ws");
    assert.equal(socket.readyState, CONNECTING);
    page.clock.advance(SETTLE);
    assert.equal(socket.readyState, OPEN);
    assert.equal(socket.protocol, "graphql-transport-ws");
    assert.deepEqual(socket.seen, ["open"]);
    assert.equal(page.attempts.length, 3);
  });

  it("comes at the hint with its ticket, and tells the wait", () => {
    const socket = made();
    assert.equal(socket.waiting, null);
    page.attempt.refuse(BUSY);
    assert.equal(socket.waiting.delay, 7000);
    assert.ok(socket.waiting.hasPlace);
    page.clock.advance(7000);
    assert.equal(page.attempt.url, `${url}?admission_ticket=${TICKET}`);
    assert.equal(socket.url, url);
  });

  it("ends with a code that is final", () => {
    const socket = made();
    page.attempt.accept();
    page.attempt.end(4001, "logged out");
    assert.equal(socket.readyState, CLOSED);
    assert.deepEqual(socket.seen, [4001]);
    assert.equal(page.clock.pending, 0);
  });

  it("ends an attempt that the library gives up, with a close event after the call", async () => {
    const socket = made();
    socket.close();
    assert.equal(socket.readyState, CLOSED);
    assert.deepEqual(socket.seen, []);
    await null;
    assert.deepEqual(socket.seen, [1006]);
    assert.deepEqual(page.attempt.closed, [undefined, ""]);
    assert.equal(page.clock.pending, 0);
    socket.close();
    await null;
    assert.deepEqual(socket.seen, [1006]);
  });
});

describe("once it is open", () => {
  it("sends, hears and closes as a WebSocket does", () => {
    const socket = opened();
    const calls = [];
    socket.onmessage = function ({ data }) { calls.push(this === socket, data); };
    socket.binaryType = "arraybuffer";
    socket.send("hello");
    page.attempt.say("world");
    socket.close(1000, "done");
    assert.equal(socket.readyState, CLOSING);
    page.attempt.end(1000, "done");
    assert.equal(socket.readyState, CLOSED);
    assert.deepEqual(page.attempt.sent, ["hello"]);
    assert.equal(page.attempt.binaryType, "arraybuffer");
    assert.deepEqual(page.attempt.closed, [1000, "done"]);
    assert.deepEqual(calls, [true, "world"]);
    assert.deepEqual(socket.seen, ["open", "world", 1000]);
    assert.equal(page.clock.pending, 0);
  });

  it("has one close, and the next one waits as the server has asked, with its ticket", () => {
    const socket = opened();
    page.attempt.end(1012, BUSY);
    assert.deepEqual(socket.seen, ["open", 1012]);
    page.clock.advance(1000);
    const next = made();
    assert.equal(page.attempts.length, 1);
    assert.equal(next.waiting.remaining, 6000);
    page.clock.advance(5999);
    assert.equal(page.attempts.length, 1);
    page.clock.advance(1);
    assert.equal(page.attempt.url, `${url}?admission_ticket=${TICKET}`);
    page.attempt.accept();
    page.clock.advance(SETTLE);
    assert.deepEqual(next.seen, ["open"]);
    assert.deepEqual(socket.seen, ["open", 1012]);
  });
});

describe("a wait without a library", () => {
  it("is taken over once, and only for the same URL and subprotocols", () => {
    const socket = made();
    page.attempt.refuse(BUSY);
    socket.close();
    const [other, first, second] = [made(["other"]), made(), made()];
    assert.equal(page.attempts.length, 3);
    assert.equal(other.waiting, null);
    assert.equal(first.waiting.remaining, 7000);
    assert.equal(second.waiting, null);
  });

  it("ends before its attempt, so that nobody holds a slot for it", () => {
    const socket = made();
    page.attempt.refuse(BUSY);
    socket.close();
    page.clock.advance(60_000);
    assert.equal(page.attempts.length, 1);
    assert.equal(page.clock.pending, 0);
    made();
    assert.equal(page.attempt.url, url);
    assert.equal(page.attempts.length, 2);
  });

  it("is kept for each of several sockets", () => {
    const sockets = [made(), made(), made()];
    for (const attempt of page.attempts) attempt.refuse(BUSY);
    for (const socket of sockets) socket.close();
    const next = [made(), made(), made()];
    assert.equal(page.attempts.length, 3);
    for (const socket of next) assert.equal(socket.waiting.remaining, 7000);
    page.clock.advance(7000);
    assert.equal(page.attempts.length, 6);
  });
});

describe("a library that comes back at once", () => {
  it("tries no faster than the floor, whatever the server says, and leaves nothing behind", () => {
    const again = () => { made().onclose = again; };
    again();
    for (let count = 2; count <= 50; count += 1) {
      page.attempt.accept();
      page.clock.advance(SETTLE);
      const closed = page.clock.now;
      page.attempt.end(1013, "Try Again Later; retry-after=0");
      page.clock.advance(499);
      assert.equal(page.attempts.length, count - 1);
      page.clock.advance(1);
      assert.equal(page.attempts.length, count);
      assert.equal(page.clock.now - closed, 500);
    }
    assert.equal(page.clock.pending, 1);
  });

  it("takes over its own wait each time that it gives up", async () => {
    let socket = made();
    page.attempt.refuse(BUSY);
    for (let count = 0; count < 50; count += 1) {
      socket.close();
      await null;
      socket = made();
      page.clock.advance(100);
    }
    assert.equal(page.attempts.length, 1);
    assert.equal(page.clock.pending, 1);
    page.clock.advance(2000);
    assert.equal(page.attempt.url, `${url}?admission_ticket=${TICKET}`);
  });
});

describe("a server that asks for long waits, and a library whose address is another one each time", () => {
  it("cannot make the waits grow without end", () => {
    for (let count = 0; count < 100; count += 1) {
      number += 1;
      url = `ws://server/${number}`;
      opened();
      page.attempt.end(1013, "retry-after=3600");
    }
    // Each has the timer of its retry, and one that ends it before.
    assert.equal(page.clock.pending, 2 * 16);
    page.clock.advance(1e7);
    assert.deepEqual([page.clock.pending, page.attempts.length], [0, 100]);
  });
});

describe("the class", () => {
  it("has the constants of WebSocket, and on… properties that forget", () => {
    const socket = made();
    for (const [name, value] of Object.entries({ CONNECTING: 0, OPEN: 1, CLOSING: 2, CLOSED: 3 })) {
      assert.equal(AdmittedSocket[name], value);
      assert.equal(socket[name], value);
    }
    socket.onopen = () => assert.fail("forgotten");
    socket.onopen = null;
    assert.equal(socket.onopen, null);
    page.attempt.accept();
    page.clock.advance(SETTLE);
    assert.deepEqual(socket.seen, ["open"]);
  });

  it("takes the options of AdmissionSocket, of a subclass as well", () => {
    class Hasty extends AdmittedSocket {
      static options = { platform: page.platform, settle: 0 };
    }
    const socket = new Hasty(url);
    page.attempt.accept();
    assert.equal(socket.readyState, OPEN);
  });
});
