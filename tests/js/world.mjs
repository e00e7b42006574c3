/** A world without time or network: a clock that the test moves, and sockets whose far end the test holds. */

export class Clock {
  #time = 0;
  #timers = new Map();
  #last = 0;

  now = () => this.#time;

  setTimeout = (callback, delay) => {
    this.#timers.set(++this.#last, { callback, at: this.#time + delay });
    return this.#last;
  };

  clearTimeout = (id) => this.#timers.delete(id);

  /** When the next timer will ring, from now; null when none is set. */
  get next() {
    const times = [...this.#timers.values()].map(({ at }) => at);
    return times.length ? Math.min(...times) - this.#time : null;
  }

  advance(milliseconds) {
    const end = this.#time + milliseconds;
    for (;;) {
      const due = [...this.#timers].filter(([, { at }]) => at <= end).sort(([, a], [, b]) => a.at - b.at)[0];
      if (!due) break;
      const [id, { callback, at }] = due;
      this.#timers.delete(id);
      this.#time = at;
      callback();
    }
    this.#time = end;
  }
}

/** The class to give to Converse; `sockets` has every socket it opened, `socket` the last. */
export function network() {
  const sockets = [];
  class FakeWebSocket {
    sent = [];
    closedWith = null;

    constructor(url) {
      this.url = url;
      sockets.push(this);
    }

    send(text) {
      this.sent.push(JSON.parse(text));
      this.onsend?.(this.sent.at(-1));
    }

    close(code) {
      this.closedWith ??= code ?? 1000;
    }

    // From here on: what the far end does.
    accept() {
      this.onopen?.();
    }

    deliver(frame) {
      this.onmessage?.({ data: JSON.stringify(frame) });
    }

    fail(code = 1006, reason = "") {
      this.onclose?.({ code, reason });
    }

    sentOf(type) {
      return this.sent.filter((frame) => frame.type === type);
    }
  }
  return {
    WebSocket: FakeWebSocket,
    sockets,
    get socket() {
      return sockets.at(-1);
    },
  };
}

/** Random numbers that are the same each time (mulberry32). */
export function seeded(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
