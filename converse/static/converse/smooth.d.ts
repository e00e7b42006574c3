/** The types of smooth.js. */

export interface SmoothOptions {
  frame?: (callback: (now: number) => void) => unknown;
  isStill?: () => boolean;
}

/** Shows text that comes in bursts at an even pace. */
export class SmoothText {
  constructor(show: (text: string) => void, options?: SmoothOptions);
  /** Come to show this text, little by little where it goes on from what is shown, else at once. */
  write(text: string): void;
  /** Show all of it now. */
  finish(): void;
}
