"use strict";

// Making elements. Whatever comes from the data goes in as text, never as markup.

/** An element with attributes (on…: a listener; null, undefined and false: left out) and children (texts or nodes). */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

const DIRECTIONS = { image_to_text: "image → text", text_to_image: "text → image" };

/** A fraction, with three places. */
const fraction = (value) => (value === null || value === undefined ? "" : value.toFixed(3));

/** A share, in percent. */
const percent = (value) => (value === null || value === undefined ? "" : `${(100 * value).toFixed(1)} %`);

/** A count, with commas. */
const count = (value) => (value === null || value === undefined ? "" : value.toLocaleString("en"));

/** An expected rank: whole where no tie makes it fractional. */
const rankWords = (value) => (value === null ? "–" : Number.isInteger(value) ? count(value) : value.toFixed(1));

/** One thing or several. */
const plural = (number, one, several = `${one}s`) => `${count(number)} ${number === 1 ? one : several}`;

/**
 * A table in a box that scrolls by itself. Columns: {title, of: row => text or node, number, head (names the row),
 * wide, best: row => whether it is the column's best}.
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

/** The commands that give a section's numbers. */
function commands(list, words = "These numbers by") {
  const lines = list.map((command) => element("li", {}, element("code", {}, command)));
  if (lines.length > 3) {
    return element("details", { class: "ask" }, element("summary", {}, `The ${lines.length} queries that give these numbers`), element("ul", {}, lines));
  }
  return element("div", { class: "ask" }, element("span", {}, words), element("ul", {}, lines));
}

/** A table that opens on demand. */
const dataTable = (caption, columns, rows) =>
  element("details", { class: "data" }, element("summary", {}, "The values as a table"), table(caption, columns, rows));

/** A part of a section under a heading of its own. */
const part = (heading, ...children) => element("div", { class: "part" }, element("h3", {}, heading), children);

/** What stands where there is nothing to show. */
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
