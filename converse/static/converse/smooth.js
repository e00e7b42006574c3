/**
 * Text that comes in bursts, shown at an even pace. Opt-in, for those who like it.
 *
 *     const smooth = new SmoothText((text) => (bubble.textContent = text));
 *     conversation.listen("StreamUpdate", () => smooth.write(message.text));
 *     conversation.listen("MessageCompleted", () => smooth.finish());
 *
 * The more there is to show, the faster it is shown: nothing lags more than about CATCH_UP behind. Who asked their
 * system for less motion, and who looks elsewhere, is shown all at once.
 *
 * @module
 */

const CATCH_UP = 400; // milliseconds in which most of what there is to show is shown
const SLOWEST = 0.03; // characters a millisecond

export class SmoothText {
  #show;
  #frame;
  #isStill;
  #text = ""; // all there is to show
  #said = ""; // what was shown last
  #shown = 0; // characters of it that are shown, with a fraction
  #at = null; // when the last of them was shown; null when nothing moves

  /**
   * @param {(text: string) => void} show is given all the text that is to be seen
   * @param {{frame?: (callback: (now: number) => void) => unknown, isStill?: () => boolean}} [options]
   */
  constructor(show, { frame = (callback) => requestAnimationFrame(callback), isStill = prefersStill } = {}) {
    this.#show = show;
    this.#frame = frame;
    this.#isStill = isStill;
  }

  /** Come to show this text, little by little where it goes on from what is shown, else at once. */
  write(text) {
    const goesOn = text.startsWith(this.#text);
    this.#text = text;
    if (!goesOn || this.#isStill()) return this.finish();
    if (this.#at !== null || this.#shown >= text.length) return;
    this.#at = undefined; // moves, since the next frame
    this.#frame((now) => this.#step(now));
  }

  /** Show all of it now. */
  finish() {
    this.#at = null;
    this.#shown = this.#text.length;
    this.#say(this.#text);
  }

  #step(now) {
    if (this.#at === null) return; // finished meanwhile
    const left = this.#text.length - this.#shown;
    const passed = Math.min(now - (this.#at ?? now - 16), 100);
    this.#at = now;
    this.#shown = Math.min(this.#text.length, this.#shown + passed * Math.max(SLOWEST, left / CATCH_UP));
    if (this.#shown >= this.#text.length || this.#isStill()) return this.finish();
    this.#say(this.#text.slice(0, whole(this.#text, Math.floor(this.#shown))));
    this.#frame((later) => this.#step(later));
  }

  #say(text) {
    if (text === this.#said) return;
    this.#said = text;
    this.#show(text);
  }
}

/** Where to cut a text so that no character of two halves is cut through. */
function whole(text, end) {
  const last = text.charCodeAt(end - 1);
  return last >= 0xd800 && last <= 0xdbff ? end - 1 : end;
}

function prefersStill() {
  return document.visibilityState === "hidden" || matchMedia("(prefers-reduced-motion: reduce)").matches;
}
