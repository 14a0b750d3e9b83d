// Elements, numbers and the tooltip. Strings become text nodes, never markup.

const ABSENT = "not measured";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

const known = (value) => typeof value === "number" && Number.isFinite(value);
const entries = (value) => (value && typeof value === "object" ? Object.entries(value) : []);
const list = (value) => (Array.isArray(value) ? value : []);
const words = (name) => String(name).replaceAll("_", " ");
const sum = (values) => values.filter(known).reduce((a, b) => a + b, 0);

const percent = (share, digits = 1) => (known(share) ? `${(100 * share).toFixed(digits)} %` : ABSENT);
const count = (value) => (known(value) ? value.toLocaleString("en-US", { maximumFractionDigits: 2 }) : ABSENT);
const fixed = (value, digits = 2) => (known(value) ? value.toFixed(digits).replace("-", "−") : ABSENT);

function figure(value) {
  if (!known(value)) return ABSENT;
  const size = Math.abs(value);
  const text = size >= 1000 ? count(Math.round(value)) : size && size < 0.01 ? value.toPrecision(2) : String(+value.toFixed(3));
  return text.replace("-", "−");
}

function duration(seconds) {
  if (!known(seconds)) return ABSENT;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60)];
  return hours ? `${hours} h ${minutes} min` : `${minutes} min ${whole % 60} s`;
}

function interval(pair) {
  return list(pair).length === 2 && pair.every(known)
    ? `${(100 * pair[0]).toFixed(1)} – ${(100 * pair[1]).toFixed(1)} %`
    : null;
}

// A budget in words: "1,000 action labels (812 distinct) · 2,000 reflection labels". Other keys follow as they are.
function budget(labels) {
  const parts = [];
  const rest = { ...labels };
  for (const kind of ["actions", "reflections"]) {
    if (!known(rest[kind])) continue;
    const distinct = rest[`${kind}_distinct`];
    parts.push(`${count(rest[kind])} ${kind.slice(0, -1)} labels${known(distinct) ? ` (${count(distinct)} distinct)` : ""}`);
    delete rest[kind];
    delete rest[`${kind}_distinct`];
  }
  for (const [key, value] of entries(rest)) {
    parts.push(`${words(key)}: ${value === true ? "yes" : value === false ? "no" : known(value) ? count(value) : value}`);
  }
  return parts.length ? parts.join(" · ") : `labels ${ABSENT}`;
}

const absent = (text) => h("p", { class: "absent" }, text);
const swatch = (tone) => h("i", { class: `swatch ${tone}`, "aria-hidden": "true" });
const legend = (items) => h("ul", { class: "legend" }, items.map(([tone, name]) => h("li", {}, swatch(tone), name)));

function section(id, title, lead, ...content) {
  return h("section", { id, "aria-labelledby": `${id}-title` },
    h("h2", { id: `${id}-title` }, title), lead && h("p", { class: "lead" }, lead), content);
}

function table(head, rows, options = {}) {
  const cell = (tag, value, index) =>
    h(tag, { class: (options.numeric || []).includes(index) ? "number" : null, scope: tag === "th" ? "col" : null }, value);
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": options.label || head.join(", ") },
    h("table", {}, options.caption && h("caption", {}, options.caption),
      h("thead", {}, h("tr", {}, head.map((value, index) => cell("th", value, index)))),
      h("tbody", {}, rows.map((row) => h("tr", {}, row.map((value, index) => cell("td", value, index)))))));
}

// One tooltip for the page; `lines` is [title, [tone, name, value], ...].
const tip = {
  show(x, y, [title, ...lines]) {
    const node = document.getElementById("tip");
    node.replaceChildren(h("b", {}, title),
      ...lines.map(([tone, name, value]) => h("div", {}, tone && swatch(tone), h("span", {}, name), h("span", {}, value))));
    node.hidden = false;
    const box = node.getBoundingClientRect();
    const left = x + 14 + box.width > innerWidth - 8 ? x - 14 - box.width : x + 14;
    node.style.left = `${Math.max(8, left)}px`;
    node.style.top = `${Math.max(8, Math.min(y + 14, innerHeight - box.height - 8))}px`;
  },
  hide() { document.getElementById("tip").hidden = true; },
};
