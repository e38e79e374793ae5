"use strict";

// Builders of HTML elements. Data is inserted as text, never as markup.

/** An element with attributes (on…: a listener; null, undefined and false: left out) and children (texts or nodes). */
function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

const DIRECTIONS = { image_to_text: "image → text", text_to_image: "text → image" };

/** A fraction with three decimals. */
const fraction = (value) => (value === null || value === undefined ? "" : value.toFixed(3));

/** A share, in percent. */
const percent = (value) => (value === null || value === undefined ? "" : `${(100 * value).toFixed(1)} %`);

/** A count, with commas. */
const count = (value) => (value === null || value === undefined ? "" : value.toLocaleString("en"));

/** An expected rank: an integer unless there are ties. */
const rankWords = (value) => (value === null ? "–" : Number.isInteger(value) ? count(value) : value.toFixed(1));

/** A count with its noun in the singular or plural. */
const plural = (number, singular, words = `${singular}s`) => `${count(number)} ${number === 1 ? singular : words}`;

/**
 * A table in a box that scrolls horizontally. Columns: {title, of: row => text or node, number, head (row header), wide,
 * best: row => whether it has the best value of the column}.
 */
function table(caption, columns, rows) {
  const cell = (column, row) => {
    const classes = [column.number && "number", column.wide && "wide", column.best?.(row) && "best"];
    return element(
      column.head ? "th" : "td",
      { scope: column.head ? "row" : null, class: classes.filter(Boolean).join(" ") || null },
      column.of(row),
    );
  };
  const heading = (column) => element("th", { scope: "col", class: column.number ? "number" : null }, column.title);
  return element(
    "div",
    { class: "scroll", role: "region", tabindex: "0", "aria-label": caption },
    element(
      "table",
      {},
      element("thead", {}, element("tr", {}, columns.map(heading))),
      element("tbody", {}, rows.map((row) => element("tr", {}, columns.map((column) => cell(column, row))))),
    ),
  );
}

/** The commands that print a section's numbers. */
function commands(list, words = "Print these numbers with") {
  const lines = list.map((command) => element("li", {}, element("code", {}, command)));
  if (lines.length > 3) {
    return element("details", { class: "commands" }, element("summary", {}, `The ${lines.length} commands that print these numbers`), element("ul", {}, lines));
  }
  return element("div", { class: "commands" }, element("span", {}, words), element("ul", {}, lines));
}

/** A collapsed table. */
const dataTable = (caption, columns, rows) =>
  element("details", { class: "data" }, element("summary", {}, "Values as a table"), table(caption, columns, rows));

/** A part of a section, with a heading. */
const part = (heading, ...children) => element("div", { class: "part" }, element("h3", {}, heading), children);

/** A message instead of missing content. */
const empty = (...words) => element("p", { class: "empty" }, words);

/** A select with its label; options: [value, words]. */
function choose(name, label, options, value, half = true) {
  const id = `choose-${name}`;
  const entries = options.map(([key, words]) => element("option", { value: key, selected: key === value }, words));
  return element(
    "div",
    { class: half ? "half" : null },
    element("label", { for: id }, label),
    element("select", { id, name }, entries),
  );
}

/** Radio buttons in a row; options: [value, words, count or nothing]. */
function radios(name, label, options, value) {
  const entry = ([key, words, number]) =>
    element(
      "label",
      {},
      element("input", { type: "radio", name, value: key, checked: key === value }),
      words,
      number === undefined ? null : element("span", { class: "count" }, count(number)),
    );
  return element(
    "fieldset",
    {},
    element("legend", {}, label),
    element("div", { class: "choice" }, options.map(entry)),
  );
}
