/**
 * What several parts of a page share: one socket an address, one subscription a conversation.
 *
 *     const { conversation, release } = share(uuid);
 *
 * Whoever releases and shares again at once, as a component that is moved or mounted twice, loses nothing.
 *
 * @module
 */

import { Converse } from "./converse.js";

export const ADDRESS = "/converse/ws/";
const connections = new Map(); // address -> {converse, users: of each conversation, how many}

/**
 * Follow a conversation together with all others on the page who do.
 * @param {string} uuid
 * @param {{url?: string, presence?: boolean}} [options] whether to be seen, the first to follow says
 * @returns {{converse: Converse, conversation: import("./converse.js").Conversation, release: () => void}}
 */
export function share(uuid, { url = ADDRESS, presence = false } = {}) {
  if (!connections.has(url)) connections.set(url, { converse: new Converse({ url }), users: new Map() });
  const { converse, users } = connections.get(url);
  const conversation = converse.subscribe(uuid, { presence });
  if (!users.has(conversation)) watch(conversation, users);
  users.set(conversation, users.get(conversation) + 1);
  converse.connect();
  let isHeld = true;
  const release = () => {
    if (isHeld) setTimeout(() => letGo(url, conversation));
    isHeld = false;
  };
  return { converse, conversation, release };
}

/** What has ended cannot be left any more: somebody may have followed it anew. */
function watch(conversation, users) {
  users.set(conversation, 0);
  for (const name of ["refused", "unsubscribed"]) conversation.listen(name, () => users.delete(conversation));
}

function letGo(url, conversation) {
  const { converse, users } = connections.get(url) ?? {};
  if (!converse) return;
  const left = users.get(conversation) - 1;
  if (left > 0) users.set(conversation, left);
  else if (users.delete(conversation)) conversation.leave();
  if (users.size > 0) return;
  connections.delete(url);
  converse.close();
}
