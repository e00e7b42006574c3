/** Prints the names of what a module exports and of what its classes have, to be compared with its types. */

globalThis.HTMLElement ??= class {};
globalThis.CSSStyleSheet ??= class {
  replaceSync() {}
};
globalThis.customElements ??= { get: () => null, define() {} };

const found = {};
for (const [name, value] of Object.entries(await import(process.argv[2]))) {
  found[name] = /^class/.test(String(value)) ? Object.getOwnPropertyNames(value.prototype) : [];
}
console.log(JSON.stringify(found));
