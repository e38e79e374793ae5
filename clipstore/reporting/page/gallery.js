// The gallery of queries. The address says which are shown; the document has one page of them at a time.

const PAGE = 24;

/** The queries of a split that a model failed: {direction, number, item, key}; `key` is the query's name in the address. */
function queriesOf(split) {
  return Object.keys(DIRECTIONS).flatMap((direction) => {
    const columns = split.queries[direction];
    const ids = hasImageQueries(direction) ? content.images.id : content.captions.id;
    const kind = hasImageQueries(direction) ? "image" : "caption";
    const perPair = content.protocols[split.protocol].query_per_pair;
    return columns.asked.map((item, number) => {
      const pair = perPair ? `-${content.captions.id[columns.models[0].wanted[number]]}` : "";
      return { direction, number, item, key: `${kind}-${ids[item]}${pair}` };
    });
  });
}

/** The result of a query under a model, given by its number. */
function resultOf(split, query, model) {
  const columns = split.queries[query.direction].models[model];
  const expected = columns.wanted[query.number];
  return {
    rank: columns.rank[query.number],
    expected,
    kind: columns.kind[query.number],
    detail: columns.detail[query.number],
    hits: columns.hits[query.number].map((item, position) => ({
      item,
      score: columns.scores[query.number][position],
      correct: content.protocols[split.protocol].query_per_pair ? item === expected : Boolean(columns.correct[query.number][position]),
    })),
  };
}

const failed = (result) => result.rank !== null && result.rank > 1;

// The sets of queries that can be shown, by the results under the baseline (before) and under the model (after).
const SHOWN = {
  failures: { words: "Failures", includes: (before, after) => failed(after) },
  fixed: { words: "Fixed", includes: (before, after) => failed(before) && after.rank === 1 },
  broken: { words: "Broken", includes: (before, after) => before.rank === 1 && failed(after) },
  both: { words: "Failed by both", includes: (before, after) => failed(before) && failed(after) },
};
const SORTS = { far: "highest rank first", near: "lowest rank first", order: "in the split’s order" };

const NO_FILTERS = { show: "", baseline: "", model: "", direction: "", kind: "", category: "", from: "", to: "", page: "" };

/** The filters in the address, with defaults for those that are missing or invalid. */
function filtersOf(split, state) {
  const model = (name, fallback) => (split.models.includes(name) ? name : fallback);
  return {
    show: split.models.length > 1 && Object.hasOwn(SHOWN, state.show) ? state.show : "failures",
    baseline: model(state.baseline, split.models[0]),
    model: model(state.model, split.models.at(-1)),
    direction: Object.hasOwn(DIRECTIONS, state.direction) ? state.direction : "",
    kind: kindsOf(split).includes(state.kind) ? state.kind : "",
    category: gallery.categories.includes(state.category) ? state.category : "",
    from: state.from ?? "",
    to: state.to ?? "",
    sort: Object.hasOwn(SORTS, state.sort) ? state.sort : "far",
    page: Math.max(1, parseInt(state.page, 10) || 1),
  };
}

/** The queries that pass the filters, for each set that can be shown. */
function filtered(split, queries, filters) {
  const [baseline, model] = [filters.baseline, filters.model].map((name) => split.models.indexOf(name));
  const [least, most] = [Number(filters.from) || 0, Number(filters.to) || Infinity];
  const matches = Object.fromEntries(Object.keys(SHOWN).map((show) => [show, []]));
  for (const query of queries) {
    if (filters.direction && query.direction !== filters.direction) continue;
    const image = imageOf(query.direction, query.item);
    if (filters.category && !content.images.categories[image].includes(filters.category)) continue;
    const [before, after] = [resultOf(split, query, baseline), resultOf(split, query, model)];
    for (const [show, { includes }] of Object.entries(SHOWN)) {
      const failure = show === "fixed" ? before : after;
      const inRange = failure.rank >= least && failure.rank <= most && (!filters.kind || failure.kind === filters.kind);
      if (inRange && includes(before, after)) matches[show].push({ ...query, failure });
    }
  }
  return matches;
}

const COMPARATORS = {
  far: (a, b) => b.failure.rank - a.failure.rank,
  near: (a, b) => a.failure.rank - b.failure.rank,
  order: () => 0,
};

const gallery = { split: null, all: [], categories: [], shown: [], state: null };

function gallerySection(split) {
  gallery.split = split;
  gallery.all = queriesOf(split);
  gallery.categories = [...new Set(gallery.all.flatMap((query) => content.images.categories[imageOf(query.direction, query.item)]))].sort();
  gallery.state = null;
  return [
    element("form", { class: "controls", id: "filters", "aria-label": "Filters of the gallery", onchange: changeFilter, onsubmit: (event) => event.preventDefault() }),
    element("p", { class: "result-count", id: "result-count", role: "status" }),
    element("ul", { class: "cards", id: "cards" }),
    element("div", { class: "pager", id: "pager" }),
    commands(split.queries.commands),
  ];
}

function changeFilter(event) {
  address.go({ [event.target.name]: event.target.value, section: "gallery", page: "" });
}

/** Update the gallery to the address, if it changed. */
function showGallery(state) {
  const filters = filtersOf(gallery.split, state);
  const next = JSON.stringify(filters);
  if (gallery.state === next) return;
  gallery.state = next;
  const matches = filtered(gallery.split, gallery.all, filters);
  gallery.shown = matches[filters.show].sort(COMPARATORS[filters.sort]);
  fillFilters(filters, matches);
  fillCards(filters);
}

function fillFilters(filters, matches) {
  const { split } = gallery;
  const names = split.models.map((name) => [name, name]);
  const several = names.length > 1;
  const number = (name, label) =>
    element(
      "div",
      { class: "half" },
      element("label", { for: `filter-${name}` }, label),
      element("input", { id: `filter-${name}`, name, type: "number", min: "1", step: "1", value: filters[name], placeholder: name === "from" ? "2" : "any" }),
    );
  const form = document.getElementById("filters");
  const focusedName = form.contains(document.activeElement) ? document.activeElement.name : null;
  form.replaceChildren(
    ...[
      several ? radios("show", "Show", Object.entries(SHOWN).map(([key, { words }]) => [key, words, matches[key].length]), filters.show) : null,
      several ? choose("baseline", "Baseline", names, filters.baseline) : null,
      several ? choose("model", "Model", names, filters.model) : null,
      choose("direction", "Direction", [["", "both"], ...Object.entries(DIRECTIONS)], filters.direction),
      kindsOf(split).length ? choose("kind", "Kind of failure", [["", "any"], ...kindsOf(split).map((kind) => [kind, kindWords(kind)])], filters.kind) : null,
      gallery.categories.length ? choose("category", "Category", [["", "any"], ...gallery.categories.map((name) => [name, name])], filters.category) : null,
      number("from", "Rank from"),
      number("to", "to"),
      choose("sort", "Order", Object.entries(SORTS), filters.sort),
    ].filter(Boolean),
  );
  if (focusedName) {
    const controls = [...form.elements].filter((control) => control.name === focusedName);
    (controls.find((control) => control.type === "radio" && control.checked) ?? controls[0])?.focus();
  }
}

function fillCards(filters) {
  const total = gallery.shown.length;
  const pages = Math.max(1, Math.ceil(total / PAGE));
  const page = Math.min(filters.page, pages);
  const queries = gallery.shown.slice((page - 1) * PAGE, page * PAGE);
  document.getElementById("result-count").textContent = total
    ? `${plural(total, "query", "queries")}, ${count((page - 1) * PAGE + 1)} to ${count((page - 1) * PAGE + queries.length)} shown`
    : "No query matches these filters.";
  document.getElementById("cards").replaceChildren(...queries.map((query) => element("li", {}, card(query, filters))));
  const turn = (words, to, possible) =>
    element("button", { type: "button", disabled: !possible, onclick: () => turnPage(to) }, words);
  document.getElementById("pager").replaceChildren(
    ...(pages > 1 ? [turn("Previous", page - 1, page > 1), `Page ${count(page)} of ${count(pages)}`, turn("Next", page + 1, page < pages)] : []),
  );
}

function turnPage(page) {
  address.go({ page: page === 1 ? "" : String(page), section: "gallery" });
  document.getElementById("result-count").scrollIntoView({ block: "start" });
}

/** The first hit that is not a positive. */
const firstWrong = (result) => result.hits.find((hit) => !hit.correct);

function card(query, filters) {
  const { failure } = query;
  const returned = firstWrong(failure);
  const models = [...new Set(filters.show === "failures" ? [filters.model] : [filters.baseline, filters.model])];
  const rank = (name) => rankWords(resultOf(gallery.split, query, gallery.split.models.indexOf(name)).rank);
  const foot = element(
    "p",
    { class: "foot" },
    models.map((name) => element("span", {}, `${name}: rank ${rank(name)}`)),
    failure.kind ? element("span", {}, kindWords(failure.kind)) : null,
  );
  const body = hasImageQueries(query.direction) ? imageCard(query, failure, returned) : captionCard(query, failure, returned);
  return element("a", { class: "card", href: address.of({ query: query.key }), "data-query": query.key }, body, foot);
}

function captionCard(query, failure, returned) {
  const side = (label, image) => element("div", {}, element("span", { class: "label" }, label), thumbnail(image));
  return [
    element("p", { class: "text" }, content.captions.text[query.item]),
    element("div", { class: "results" }, side("expected", failure.expected), returned ? side("returned", returned.item) : null),
  ];
}

function imageCard(query, failure, returned) {
  const line = (label, caption) =>
    element("p", {}, element("span", { class: "label" }, label), element("span", { class: "text" }, content.captions.text[caption]));
  return element(
    "div",
    { class: "with-thumbnail" },
    thumbnail(query.item),
    element("div", {}, line("expected", failure.expected), returned ? line("returned", returned.item) : null),
  );
}

// ---- one query ----

/** Open the query that the address names; close the dialog if it names none. */
function showQuery(state) {
  const dialog = document.getElementById("query");
  const query = state.query ? gallery.all.find(({ key }) => key === state.query) : null;
  if (!query) {
    if (dialog.open) dialog.close();
    return;
  }
  dialog.replaceChildren(queryBar(query), queryBody(query));
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
}

function queryBar(query) {
  const position = gallery.shown.findIndex(({ key }) => key === query.key);
  const step = (words, to) =>
    element("button", { type: "button", disabled: position < 0 || !gallery.shown[to], onclick: () => address.go({ query: gallery.shown[to].key }) }, words);
  return element(
    "div",
    { class: "dialog-bar" },
    element("h2", { id: "query-title" }, DIRECTIONS[query.direction]),
    step("Previous", position - 1),
    step("Next", position + 1),
    element("button", { type: "button", autofocus: true, onclick: () => document.getElementById("query").close() }, "Close"),
  );
}

function queryBody(query) {
  const { split } = gallery;
  const results = split.models.map((_, number) => resultOf(split, query, number));
  const expected = [...new Set(results.map((result) => result.expected).filter((item) => item !== null))];
  const images = hasImageQueries(query.direction);
  const captionText = (item) => element("p", { class: "caption" }, content.captions.text[item]);
  const image = (item) => [thumbnail(item), element("p", { class: "verdict" }, content.images.file[item])];
  const id = (images ? content.images.id : content.captions.id)[query.item];
  const expectedLabel = images && expected.length > 1 ? "expected: the nearest of its captions, by model" : "expected";
  return element(
    "div",
    { class: "dialog-body" },
    element(
      "div",
      { class: "query-items" },
      element("div", {}, element("span", { class: "label" }, "query"), images ? image(query.item) : captionText(query.item)),
      element("div", {}, element("span", { class: "label" }, expectedLabel), expected.map(images ? captionText : image)),
    ),
    element("div", { class: "results-by-model" }, split.models.map((name, number) => modelResult(query, name, number, results[number]))),
    commands(queryCommands(query, id)),
  );
}

function modelResult(query, name, number, result) {
  const images = !hasImageQueries(query.direction);
  const hit = ({ item, score, correct }, position) =>
    element(
      "li",
      {},
      element("span", { class: "position" }, String(position + 1)),
      images ? thumbnail(item) : null,
      element(
        "span",
        { class: "item" },
        correct ? element("span", { class: "right" }, "✓ right") : null,
        images ? content.images.file[item].split("/").at(-1) : content.captions.text[item],
      ),
      element("span", { class: "score" }, score.toFixed(3)),
    );
  const swatch = element("span", { class: "swatch", style: `--series: var(--series-${number % 8})` });
  const why = result.kind ? `: ${kindWords(result.kind)}${result.detail ? ` (${result.detail})` : ""}` : "";
  const verdict = result.rank === null ? "not a query of this model" : `rank ${rankWords(result.rank)}${why}`;
  return element(
    "div",
    {},
    element("h3", {}, swatch, name),
    element("p", { class: "verdict" }, verdict),
    element("ol", { class: images ? "hits images" : "hits" }, result.hits.map(hit)),
  );
}

/** The commands that print the hits of one query: those of the section, restricted to it. */
function queryCommands(query, id) {
  const retrieved = gallery.split.queries.commands.filter((command) => command.startsWith("clipstore query retrieved"));
  return retrieved.map((command) => `${command.split(" -p k=")[0]} -p direction=${query.direction} -p query=${id} -p limit=100`);
}
