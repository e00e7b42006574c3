/**
 * Defines `<converse-chat conversation="uuid">`: a conversation in a page, with one line of HTML.
 *
 *     <script type="module" src="{% static 'converse/chat.js' %}"></script>
 *
 * @module
 */

import { ConverseChat } from "./chat/element.js";

if (!customElements.get("converse-chat")) customElements.define("converse-chat", ConverseChat);

export { ConverseChat };
