/**
 * The element's style. A sheet made by a script is kept by every page with a strict policy, needs no file of its own,
 * and is there before the first message is. What a page may set are the properties at the top, and each `::part()`.
 */

export const sheet = new CSSStyleSheet();

sheet.replaceSync(`
:host {
  --surface: var(--converse-surface, light-dark(#ffffff, #141b22));
  --raised: var(--converse-raised, light-dark(#ffffff, #1b242d));
  --ink: var(--converse-ink, light-dark(#17202a, #e6ebf0));
  --soft: var(--converse-soft, light-dark(#56616f, #9aa8b7));
  --line: var(--converse-line, light-dark(#e1e5ea, #2a3642));
  --accent: var(--converse-accent, light-dark(#0f766e, #2dd4bf));
  --accent-ink: var(--converse-accent-ink, light-dark(#ffffff, #06211e));
  --mine: var(--converse-mine, light-dark(#e3f3f0, #12363a));
  --code: var(--converse-code, light-dark(#f4f6f8, #0f151b));
  --good: var(--converse-good, light-dark(#15803d, #4ade80));
  --wait: var(--converse-wait, light-dark(#a14a08, #fbbf24));
  --bad: var(--converse-bad, light-dark(#b91c1c, #f87171));
  --bad-soft: var(--converse-bad-soft, light-dark(#fdecec, #3a1a1d));
  --note: var(--converse-note, light-dark(#fef6e0, #33290f));
  --font: var(--converse-font, system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif);
  --mono: var(--converse-mono, ui-monospace, "SF Mono", "Cascadia Code", "DejaVu Sans Mono", monospace);
  --radius: var(--converse-radius, 0.9rem);
  --column: var(--converse-column, 46rem);
  display: flex;
  flex-direction: column;
  position: relative;
  container-type: inline-size;
  inline-size: 100%;
  min-inline-size: 0;
  block-size: 36rem;
  background: var(--surface);
  color: var(--ink);
  font: 1rem/1.6 var(--font);
  text-align: start;
}

:host([hidden]) { display: none; }
:host([theme="auto"]) { color-scheme: light dark; }
:host([theme="light"]) { color-scheme: light; }
:host([theme="dark"]) { color-scheme: dark; }

*, ::before, ::after { box-sizing: border-box; }
button, textarea, input { font: inherit; color: inherit; letter-spacing: inherit; }
button { cursor: pointer; }
p, ul, ol, dl, pre, h3, h4, h5, h6, blockquote { margin: 0; padding: 0; }
a { color: var(--accent); text-underline-offset: 0.15em; overflow-wrap: anywhere; }
[hidden] { display: none !important; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
svg { inline-size: 1.25rem; block-size: 1.25rem; fill: none; stroke: currentcolor; stroke-width: 1.7; stroke-linecap: round; stroke-linejoin: round; }

.visually-hidden {
  position: absolute;
  inline-size: 1px;
  block-size: 1px;
  margin: 0;
  overflow: hidden;
  clip-path: inset(50%);
  white-space: nowrap;
}

.icon {
  display: inline-grid;
  place-items: center;
  flex: none;
  padding: 0;
  border: 0;
  border-radius: 0.6rem;
  background: none;
  color: var(--soft);
}

.icon:hover:enabled { background: color-mix(in srgb, var(--ink) 8%, transparent); color: var(--ink); }
.icon:disabled { opacity: 0.35; cursor: default; }
:host(:dir(rtl)) :is(.earlier, .later) svg { transform: scaleX(-1); }

.primary { border: 1px solid transparent; background: var(--accent); color: var(--accent-ink); font-weight: 600; }
.primary:is(:hover:enabled, .icon:hover:enabled) { background: color-mix(in srgb, var(--accent) 88%, var(--ink)); color: var(--accent-ink); }
.primary:disabled { opacity: 0.45; cursor: default; }
.secondary { border: 1px solid var(--line); background: var(--raised); font-weight: 550; }
.secondary:hover:enabled { border-color: var(--accent); }
.secondary:disabled { opacity: 0.45; cursor: default; }

/* The messages. */

.transcript { position: relative; flex: 1; min-block-size: 0; display: flex; }
.messages { flex: 1; min-inline-size: 0; overflow-y: auto; overscroll-behavior: contain; padding: 1.5rem 1rem 1rem; outline-offset: -4px; }
.messages > * { max-inline-size: var(--column); margin-inline: auto; }
.list { display: flex; flex-direction: column; gap: 1.25rem; }
.empty:is(p) { padding-block-start: 20vh; color: var(--soft); font-size: 1.25rem; text-align: center; }
.earlier:is(p) { margin-block-end: 1rem; color: var(--soft); font-size: 0.8125rem; text-align: center; }

.latest {
  position: absolute;
  inset-block-end: 0.5rem;
  inset-inline: 0;
  margin-inline: auto;
  inline-size: 2.25rem;
  block-size: 2.25rem;
  border: 1px solid var(--line);
  border-radius: 50%;
  background: var(--raised);
  box-shadow: 0 2px 10px rgb(0 0 0 / 15%);
}

.latest.icon:hover:enabled { background: var(--raised); border-color: var(--accent); }

.message { display: flex; flex-direction: column; align-items: flex-start; min-inline-size: 0; }
.parts { display: flex; flex-direction: column; align-items: flex-start; gap: 0.75rem; inline-size: 100%; }
.text { max-inline-size: 100%; overflow-wrap: anywhere; white-space: pre-wrap; }
.text.form { color: var(--soft); font: 0.8125rem/1.5 var(--mono); }
.message.assistant .text:not(.form) { inline-size: 100%; }
.message.user, .message.user .parts { align-items: flex-end; }
.message.user .text { max-inline-size: min(85%, 36rem); padding: 0.6rem 1rem; border-radius: 1.1rem; border-end-end-radius: 0.3rem; background: var(--mine); }
.message.unsent { opacity: 0.6; }
.refusal { font-style: italic; }

.footer { display: flex; flex-wrap: wrap; align-items: center; gap: 0.1rem 0.75rem; min-block-size: 1.75rem; margin-block-start: 0.2rem; color: var(--soft); font-size: 0.8125rem; }
.message.user .footer { margin-block-end: -0.75rem; }
.footer .error { padding: 0.1rem 0.6rem; border-radius: 0.5rem; background: var(--bad-soft); color: var(--bad); overflow-wrap: anywhere; }
.acts { display: inline-flex; align-items: center; gap: 0.1rem; }
.acts:empty { display: none; }
.acts .icon { inline-size: 1.75rem; block-size: 1.75rem; }
.acts svg { inline-size: 1rem; block-size: 1rem; }
.acts .secondary { padding: 0.1rem 0.75rem; border-radius: 0.6rem; }
.footer span, .foot span { unicode-bidi: plaintext; }
.version { font-variant-numeric: tabular-nums; }
.message.assistant .acts { order: -1; margin-inline-start: -0.35rem; }
.message:is([data-status="failed"], [data-status="cancelled"]) .acts { order: 0; margin-inline-start: 0; }

@media (hover: hover) {
  .message.user .acts .icon:not(.turn) { opacity: 0; }
  .message.user:is(:hover, :focus-within) .acts .icon:not(.turn) { opacity: 1; }
}

.badge { display: inline-flex; align-items: center; gap: 0.35rem; font-weight: 550; }
.badge::before { content: ""; inline-size: 0.5rem; block-size: 0.5rem; border-radius: 50%; background: currentcolor; }
.badge.streaming { color: var(--accent); }
.badge:is(.pending, .waiting) { color: var(--wait); }
.badge.failed { color: var(--bad); }
.badge:is(.pending, .streaming)::before { animation: pulse 1.2s ease-in-out infinite; }

.message[data-status="streaming"] :is(.text:last-child .prose > :last-child:not(.code, .table, ul, ol, blockquote, hr), .text:last-child .prose.plain, .text.empty)::after {
  content: "";
  display: inline-block;
  inline-size: 0.5em;
  block-size: 1.05em;
  margin-inline-start: 0.15em;
  border-radius: 0.1em;
  background: var(--accent);
  vertical-align: text-bottom;
  animation: blink 1.1s steps(2, jump-none) infinite;
}

/* Markdown. */

.prose { display: flow-root; white-space: normal; }
.prose:is(.plain), .prose .markup { white-space: pre-wrap; }
.prose > * + * { margin-block-start: 0.75rem; }
.prose :is(h3, h4, h5, h6) { font-size: 1.0625rem; font-weight: 650; line-height: 1.35; }
.prose h3 { font-size: 1.3125rem; }
.prose h4 { font-size: 1.1875rem; }
.prose > :is(h3, h4, h5, h6):not(:first-child) { margin-block-start: 1.25rem; }
.prose :is(ul, ol) { padding-inline-start: 1.5rem; }
.prose li + li { margin-block-start: 0.25rem; }
.prose li > * + * { margin-block-start: 0.4rem; }
.prose li.task { list-style: none; margin-inline-start: -1.25rem; }
.prose li::marker { color: var(--soft); }
.prose blockquote { padding-inline-start: 0.9rem; border-inline-start: 3px solid var(--line); color: var(--soft); }
.prose blockquote > * + * { margin-block-start: 0.5rem; }
.prose hr { block-size: 1px; margin-block: 1.25rem; border: 0; background: var(--line); }
.prose :not(pre) > code { padding: 0.1em 0.35em; border-radius: 0.35rem; background: var(--code); font: 0.875em var(--mono); overflow-wrap: anywhere; }

.table { overflow-x: auto; border: 1px solid var(--line); border-radius: 0.6rem; }
table { inline-size: 100%; border-collapse: collapse; font-size: 0.9375rem; }
:is(th, td) { padding: 0.4rem 0.75rem; text-align: start; vertical-align: top; overflow-wrap: normal; }
th { background: color-mix(in srgb, var(--ink) 4%, transparent); font-weight: 600; }
tr + tr > td, thead + tbody > tr:first-child > td { border-block-start: 1px solid var(--line); }
:is(th, td).center { text-align: center; }
:is(th, td).right { text-align: end; }

.code { border: 1px solid var(--line); border-radius: 0.7rem; background: var(--code); overflow: hidden; text-align: left; }
.code > header { display: flex; align-items: center; justify-content: space-between; min-block-size: 2.1rem; padding-inline: 0.9rem 0.3rem; color: var(--soft); font: 0.75rem var(--mono); }
.code .icon { inline-size: 1.75rem; block-size: 1.75rem; }
.code svg { inline-size: 1rem; block-size: 1rem; }
.code pre { padding: 0 0.9rem 0.8rem; overflow-x: auto; font: 0.8438rem/1.55 var(--mono); white-space: pre; outline-offset: -3px; }
.code code { font: inherit; }

/* Thoughts, sources, files. */

:is(.source, .reasoning) { max-inline-size: 100%; color: var(--soft); font-size: 0.9375rem; overflow-wrap: anywhere; }
summary { cursor: pointer; inline-size: fit-content; border-radius: 0.3rem; }
.reasoning.open > summary { animation: pulse 1.6s ease-in-out infinite; }
.thoughts { margin-block-start: 0.4rem; padding-inline-start: 0.9rem; border-inline-start: 2px solid var(--line); white-space: pre-wrap; overflow-wrap: anywhere; }

.file, .file a { display: inline-flex; align-items: center; gap: 0.4rem; max-inline-size: 100%; }
.file:not(:has(img)) { padding: 0.35rem 0.8rem; border: 1px solid var(--line); border-radius: 0.7rem; background: var(--raised); font-size: 0.9375rem; }
.file a { color: inherit; text-decoration: none; }
.file a:hover { text-decoration: underline; }
.message.user :is(.file, .file a) { justify-content: flex-end; }
.file img { max-inline-size: min(100%, 18rem); max-block-size: 14rem; border: 1px solid var(--line); border-radius: var(--radius); object-fit: contain; }

/* A call of a tool. */

.call {
  --tone: var(--soft);
  inline-size: min(100%, 34rem);
  border: 1px solid color-mix(in srgb, var(--tone) 30%, var(--line));
  border-radius: var(--radius);
  background: color-mix(in srgb, var(--tone) 5%, var(--raised));
  overflow: hidden;
}

.call:is([data-state="writing"], [data-state="running"]) { --tone: var(--accent); }
.call:is([data-state="waiting"], [data-state="approved"]) { --tone: var(--wait); }
.call[data-state="done"] { --tone: var(--good); }
.call:is([data-state="failed"], [data-state="denied"]) { --tone: var(--bad); }

.call > header { display: flex; align-items: center; gap: 0.6rem; padding: 0.55rem 0.9rem; }
.call > header code { flex: 1; min-inline-size: 0; font: 600 0.875rem/1.5 var(--mono); overflow-wrap: anywhere; }
.call .state { color: var(--tone); font-size: 0.8125rem; font-weight: 550; white-space: nowrap; }

.glyph { flex: none; inline-size: 0.9rem; block-size: 0.9rem; border: 2px solid var(--tone); border-radius: 50%; }
.call:is([data-state="writing"], [data-state="running"]) .glyph { border-right-color: transparent; animation: turn 0.9s linear infinite; }
.call:is([data-state="done"], [data-state="approved"]) .glyph { background: var(--tone); }
.call[data-state="waiting"] .glyph { animation: pulse 1.2s ease-in-out infinite; }
.call:is([data-state="failed"], [data-state="denied"]) .glyph { border-radius: 0.2rem; background: var(--tone); }

.call > :not(header) { padding: 0.5rem 0.9rem; border-block-start: 1px solid color-mix(in srgb, var(--tone) 18%, var(--line)); }
.call pre { font: 0.8125rem/1.5 var(--mono); white-space: pre-wrap; overflow-wrap: anywhere; }
.call pre.arguments { min-block-size: 2.25rem; }
.output { font-size: 0.9375rem; }
.output > summary { color: var(--soft); }
.output pre { max-block-size: 16rem; margin-block-start: 0.4rem; overflow: auto; }
.decision { color: var(--tone); font-size: 0.875rem; overflow-wrap: anywhere; }

dl { display: flex; flex-wrap: wrap; gap: 0.2rem 1.5rem; font-size: 0.875rem; }
dl div { display: flex; gap: 0.45rem; min-inline-size: 0; }
dt { color: var(--soft); }
dd { margin: 0; min-inline-size: 0; font-weight: 550; overflow-wrap: anywhere; }
dd ul { padding-inline-start: 1.1rem; }

.call > .approval { display: flex; flex-wrap: wrap; align-items: center; gap: 0.5rem; background: var(--note); }
.approval p { flex: 1 1 100%; font-size: 0.9375rem; font-weight: 550; }
.approval input { flex: 1 1 10rem; min-inline-size: 0; padding: 0.35rem 0.75rem; border: 1px solid color-mix(in srgb, var(--soft) 70%, transparent); border-radius: 0.6rem; background: var(--raised); }
.approval button { padding: 0.35rem 1rem; border-radius: 0.6rem; }

.structured {
  inline-size: min(100%, 34rem);
  padding: 0.9rem 1.1rem;
  border: 1px solid color-mix(in srgb, var(--accent) 35%, var(--line));
  border-inline-start-width: 4px;
  border-radius: 0.6rem var(--radius) var(--radius) 0.6rem;
  background: var(--raised);
}

.structured > dl { display: grid; gap: 0.3rem; font-size: 0.9375rem; }
.structured > dl > div { display: grid; grid-template-columns: minmax(4rem, 7rem) 1fr; }
.structured dd { font-weight: 450; }

/* Where one writes. */

.composer { inline-size: min(100% - 2rem, var(--column) + 1rem); margin: 0 auto 0.6rem; }
.composer > .error { margin-block-end: 0.5rem; padding: 0.4rem 1rem; border-radius: 0.75rem; background: var(--bad-soft); color: var(--bad); overflow-wrap: anywhere; }

.box {
  display: flex;
  flex-wrap: wrap;
  align-items: flex-end;
  gap: 0.25rem;
  padding: 0.45rem;
  border: 1px solid color-mix(in srgb, var(--soft) 45%, var(--line));
  border-radius: 1.75rem;
  background: var(--raised);
  box-shadow: 0 1px 2px rgb(16 24 40 / 6%), 0 8px 24px rgb(16 24 40 / 8%);
}

.box:focus-within { border-color: var(--accent); box-shadow: 0 0 0 1px var(--accent), 0 8px 24px rgb(16 24 40 / 8%); }
.box textarea { flex: 1; min-inline-size: 0; max-block-size: 40vh; padding: 0.45rem 0.5rem; border: 0; background: none; line-height: 1.5; resize: none; field-sizing: content; outline: none; }
.box textarea:first-of-type { padding-inline-start: 0.9rem; }
.box .attach:not([hidden]) ~ textarea { padding-inline-start: 0.4rem; }
.box textarea::placeholder { color: var(--soft); opacity: 1; }
.box .icon { inline-size: 2.5rem; block-size: 2.5rem; border-radius: 50%; }
.box .primary { color: var(--accent-ink); }
.box .send[aria-busy="true"] { opacity: 0.45; }
svg.icon-stop { fill: currentcolor; }

.uploads { flex: 1 0 100%; display: flex; flex-wrap: wrap; gap: 0.4rem; padding: 0.2rem 0.4rem; list-style: none; }
.uploads li { display: inline-flex; align-items: center; gap: 0.4rem; max-inline-size: 100%; padding-inline: 0.7rem 0.2rem; border: 1px solid var(--line); border-radius: 0.7rem; background: var(--surface); font-size: 0.875rem; }
.uploads span { min-inline-size: 0; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.uploads svg { inline-size: 1rem; block-size: 1rem; }
.uploads .icon { inline-size: 1.75rem; block-size: 1.75rem; }
.uploads [aria-busy="true"] { color: var(--soft); }
.uploads [aria-busy="true"] > svg { animation: pulse 1.2s ease-in-out infinite; }

.foot { display: flex; justify-content: space-between; gap: 1rem; padding: 0.35rem 1rem 0; color: var(--soft); font-size: 0.75rem; }
.hint { min-inline-size: 0; }
.connection { display: inline-flex; align-items: center; gap: 0.4rem; flex: none; }
.connection::before { content: ""; inline-size: 0.5rem; block-size: 0.5rem; border-radius: 50%; background: var(--wait); }
.connection[data-state="open"]::before { background: var(--good); }
.connection:is([data-state="refused"], [data-state="closed"])::before { background: var(--bad); }

.editor { display: flex; flex-wrap: wrap; justify-content: flex-end; gap: 0.5rem; inline-size: min(100%, 36rem); }
.editor textarea { flex: 1 1 100%; max-block-size: 40vh; padding: 0.6rem 1rem; border: 1px solid var(--accent); border-radius: 1.1rem; background: var(--raised); resize: none; field-sizing: content; }
.editor button { padding: 0.3rem 1rem; border-radius: 0.6rem; }

:host([data-drop])::after {
  content: attr(data-drop);
  position: absolute;
  inset: 0.5rem;
  display: grid;
  place-items: center;
  border: 2px dashed var(--accent);
  border-radius: var(--radius);
  background: color-mix(in srgb, var(--surface) 88%, var(--accent));
  font-weight: 600;
  pointer-events: none;
}

@container (max-width: 40rem) {
  .messages { padding-inline: 0.9rem; }
  .message.user .text { max-inline-size: 92%; }
  .hint:not(.typing) { display: none; }
  .foot { justify-content: flex-end; }
  .composer { inline-size: calc(100% - 1.2rem); }
  .approval input { flex-basis: 100%; }
  .approval button { flex: 1; }
}

@media (prefers-reduced-motion: reduce) {
  *, ::before, ::after { animation: none !important; }
}

@keyframes blink { from { opacity: 1; } to { opacity: 0; } }
@keyframes turn { to { transform: rotate(1turn); } }
@keyframes pulse { 50% { opacity: 0.25; } }
`);
