// The list of cases that every client must pass, which docs/protocol.md prints. The Python client passes it too.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, it } from "node:test";

import { Page } from "./fakes.mjs";

const { cases } = JSON.parse(readFileSync(new URL("../support/conformance.json", import.meta.url), "utf8"));

/** Have the present attempt end as the case says. */
function end(page, { close, reason, lost, nothing, uptime }) {
  if (nothing) return page.attempt.drop();
  page.attempt.accept();
  page.clock.advance(1000 * uptime);
  if (lost) return page.attempt.drop();
  return page.attempt.end(close, reason);
}

/** The waits of a client whose every draw is `random`, in seconds, and the tickets that it hands back. */
function run(steps, random) {
  const page = new Page();
  page.random = random;
  const socket = page.open();
  return steps.map(({ ending }) => {
    end(page, ending);
    const { waiting } = socket;
    if (waiting === null) return { wait: null, ticket: null };
    const attempts = page.attempts.length;
    while (page.attempts.length === attempts) page.clock.step();
    const { origin, pathname, searchParams } = new URL(page.attempt.url);
    assert.equal(`${origin}${pathname}`, "ws://server/");
    assert.ok([...searchParams.keys()].every((name) => name === "admission_ticket"));
    const tickets = searchParams.getAll("admission_ticket");
    assert.equal(waiting.hasPlace, tickets.length > 0);
    assert.ok(tickets.length <= 1);
    return { wait: waiting.delay / 1000, ticket: tickets[0] ?? null };
  });
}

describe("the conformance list", () => {
  const told = cases.filter(({ programs_only }) => !programs_only);
  assert.ok(told.length > 50);

  for (const { number, title, steps } of told) {
    it(`${number}: ${title}`, () => {
      for (const bound of [0, 1]) {
        const expected = steps.map(({ wait, ticket }) => ({ wait: wait?.[bound] ?? null, ticket }));
        assert.deepEqual(run(steps, bound), expected);
      }
    });
  }
});
