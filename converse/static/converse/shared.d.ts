/** The types of shared.js. */

import type { Conversation, Converse } from "./converse.js";

export interface ShareOptions {
  url?: string;
  presence?: boolean;
}

export const ADDRESS: string;

/** Follow a conversation together with all others on the page who do. */
export function share(
  uuid: string,
  options?: ShareOptions,
): { converse: Converse; conversation: Conversation; release: () => void };
