// The gallery: which queries are shown stands in the address; a page of them is in the document at a time.

const PAGE = 24;

/** All queries of a split: {direction, number, key}; `key` names one in the address. */
function queriesOf(split) {
  return Object.keys(DIRECTIONS).flatMap((direction) => {
    const own = split.queries[direction];
    const ids = imagesAsk(direction) ? content.images.id : content.captions.id;
    const kind = imagesAsk(direction) ? "image" : "caption";
    return own.asked.map((asked, number) => {
      const pair = split.protocol === "paired-rows" ? `-${content.captions.id[own.models[0].wanted[number]]}` : "";
      return { direction, number, asked, key: `${kind}-${ids[asked]}${pair}` };
    });
  });
}

/** What a model did with a query. */
function answer(split, query, model) {
  const own = split.queries[query.direction].models[model];
  return {
    rank: own.rank[query.number],
    wanted: own.wanted[query.number],
    kind: own.kind[query.number],
    detail: own.detail[query.number],
    hits: own.hits[query.number].map((item, place) => ({
      item,
      score: own.scores[query.number][place],
      correct: split.protocol === "paired-rows" ? item === own.wanted[query.number] : Boolean(own.correct[query.number][place]),
    })),
  };
}

const failed = (one) => one.rank !== null && one.rank > 1;

// What a query may be, before (under the baseline) and after; and whose rank then counts.
const SHOWN = {
  failures: { words: "Failures", is: (before, after) => failed(after) },
  fixed: { words: "Fixed", is: (before, after) => failed(before) && after.rank === 1 },
  broken: { words: "Broken", is: (before, after) => before.rank === 1 && failed(after) },
  both: { words: "Failed by both", is: (before, after) => failed(before) && failed(after) },
};
const SORTS = { far: "farthest first", near: "nearest first", order: "in the split’s order" };

const NO_FILTERS = { show: "", baseline: "", model: "", direction: "", kind: "", category: "", from: "", to: "", page: "" };

/** The filters as they are: from the address, with what is the case where it says nothing. */
function filtersOf(split, state) {
  const model = (name, other) => (split.models.includes(name) ? name : other);
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

/** The queries that the filters leave, for each thing that may be shown. */
function filtered(split, all, filters) {
  const [before, after] = [filters.baseline, filters.model].map((name) => split.models.indexOf(name));
  const [least, most] = [Number(filters.from) || 0, Number(filters.to) || Infinity];
  const found = Object.fromEntries(Object.keys(SHOWN).map((show) => [show, []]));
  for (const query of all) {
    if (filters.direction && query.direction !== filters.direction) continue;
    const image = imageOf(query.direction, query.asked);
    if (filters.category && !content.images.categories[image].includes(filters.category)) continue;
    const [was, is] = [answer(split, query, before), answer(split, query, after)];
    for (const [show, { is: fits }] of Object.entries(SHOWN)) {
      const one = show === "fixed" ? was : is;
      const ranked = one.rank >= least && one.rank <= most && (!filters.kind || one.kind === filters.kind);
      if (ranked && fits(was, is)) found[show].push({ ...query, failing: one });
    }
  }
  return found;
}

const SORTED = {
  far: (a, b) => b.failing.rank - a.failing.rank,
  near: (a, b) => a.failing.rank - b.failing.rank,
  order: () => 0,
};

const gallery = { split: null, all: [], categories: [], shown: [], state: null };

function gallerySection(split) {
  gallery.split = split;
  gallery.all = queriesOf(split);
  gallery.categories = [...new Set(gallery.all.flatMap((query) => content.images.categories[imageOf(query.direction, query.asked)]))].sort();
  gallery.state = null;
  return [
    element("form", { class: "controls", id: "filters", "aria-label": "Filters of the gallery", onchange: changeFilter, onsubmit: (event) => event.preventDefault() }),
    element("p", { class: "found", id: "found", role: "status" }),
    element("ul", { class: "cards", id: "cards" }),
    element("div", { class: "pager", id: "pager" }),
    commands(split.queries.commands),
  ];
}

function changeFilter(event) {
  address.go({ [event.target.name]: event.target.value, section: "gallery", page: "" });
}

/** Bring the gallery to what the address says; nothing where it is so already. */
function showGallery(state) {
  const filters = filtersOf(gallery.split, state);
  const wanted = JSON.stringify(filters);
  if (gallery.state === wanted) return;
  gallery.state = wanted;
  const found = filtered(gallery.split, gallery.all, filters);
  gallery.shown = found[filters.show].sort(SORTED[filters.sort]);
  fillFilters(filters, found);
  fillCards(filters);
}

function fillFilters(filters, found) {
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
  const focus = form.contains(document.activeElement) ? [document.activeElement.name, document.activeElement.value] : null;
  form.replaceChildren(
    ...[
      several ? radios("show", "Show", Object.entries(SHOWN).map(([key, { words }]) => [key, words, found[key].length]), filters.show) : null,
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
  if (focus) {
    const controls = [...form.elements].filter((one) => one.name === focus[0]);
    (controls.find((one) => one.type === "radio" && one.checked) ?? controls[0])?.focus();
  }
}

function fillCards(filters) {
  const total = gallery.shown.length;
  const pages = Math.max(1, Math.ceil(total / PAGE));
  const page = Math.min(filters.page, pages);
  const here = gallery.shown.slice((page - 1) * PAGE, page * PAGE);
  document.getElementById("found").textContent = total
    ? `${plural(total, "query", "queries")}, ${count((page - 1) * PAGE + 1)} to ${count((page - 1) * PAGE + here.length)} shown`
    : "No query is so.";
  document.getElementById("cards").replaceChildren(...here.map((query) => element("li", {}, card(query, filters))));
  const turn = (words, to, possible) =>
    element("button", { type: "button", disabled: !possible, onclick: () => turnPage(to) }, words);
  document.getElementById("pager").replaceChildren(
    ...(pages > 1 ? [turn("Previous", page - 1, page > 1), `Page ${count(page)} of ${count(pages)}`, turn("Next", page + 1, page < pages)] : []),
  );
}

function turnPage(page) {
  address.go({ page: page === 1 ? "" : String(page), section: "gallery" });
  document.getElementById("found").scrollIntoView({ block: "start" });
}

/** The first hit that is wrong. */
const instead = (one) => one.hits.find((hit) => !hit.correct);

function card(query, filters) {
  const { failing } = query;
  const came = instead(failing);
  const fate = [...new Set(filters.show === "failures" ? [filters.model] : [filters.baseline, filters.model])];
  const foot = element(
    "p",
    { class: "foot" },
    fate.map((name) => element("span", {}, `${name}: rank ${rankWords(answer(gallery.split, query, gallery.split.models.indexOf(name)).rank)}`)),
    failing.kind ? element("span", {}, kindWords(failing.kind)) : null,
  );
  const body = imagesAsk(query.direction) ? imageCard(query, failing, came) : captionCard(query, failing, came);
  return element("a", { class: "card", href: address.of({ query: query.key }), "data-query": query.key }, body, foot);
}

function captionCard(query, failing, came) {
  const side = (label, place) => element("div", {}, element("span", { class: "label" }, label), photo(place));
  return [
    element("p", { class: "asked" }, content.captions.text[query.asked]),
    element("div", { class: "answers" }, side("wanted", failing.wanted), came ? side("came instead", came.item) : null),
  ];
}

function imageCard(query, failing, came) {
  const said = (label, place) =>
    element("p", {}, element("span", { class: "label" }, label), element("span", { class: "asked" }, content.captions.text[place]));
  return element(
    "div",
    { class: "with-photo" },
    photo(query.asked),
    element("div", {}, said("wanted", failing.wanted), came ? said("came instead", came.item) : null),
  );
}

// ---- one query ----

/** Open the query that the address names, or close it where it names none. */
function showQuery(state) {
  const dialog = document.getElementById("query");
  const query = state.query ? gallery.all.find((one) => one.key === state.query) : null;
  if (!query) {
    if (dialog.open) dialog.close();
    return;
  }
  dialog.replaceChildren(queryBar(query), queryBody(query));
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
}

function queryBar(query) {
  const place = gallery.shown.findIndex((one) => one.key === query.key);
  const step = (words, to) =>
    element("button", { type: "button", disabled: place < 0 || !gallery.shown[to], onclick: () => address.go({ query: gallery.shown[to].key }) }, words);
  return element(
    "div",
    { class: "dialog-bar" },
    element("h2", { id: "query-title" }, DIRECTIONS[query.direction]),
    step("Previous", place - 1),
    step("Next", place + 1),
    element("button", { type: "button", autofocus: true, onclick: () => document.getElementById("query").close() }, "Close"),
  );
}

function queryBody(query) {
  const { split } = gallery;
  const answers = split.models.map((_, number) => answer(split, query, number));
  const wanted = [...new Set(answers.map((one) => one.wanted).filter((place) => place !== null))];
  const images = imagesAsk(query.direction);
  const said = (place) => element("p", { class: "said" }, content.captions.text[place]);
  const shown = (place) => [photo(place), element("p", { class: "verdict" }, content.images.file[place])];
  const id = (images ? content.images.id : content.captions.id)[query.asked];
  return element(
    "div",
    { class: "dialog-body" },
    element(
      "div",
      { class: "question" },
      element("div", {}, element("span", { class: "label" }, "asked"), images ? shown(query.asked) : said(query.asked)),
      element("div", {}, element("span", { class: "label" }, images && wanted.length > 1 ? "wanted, the nearest of its captions by model" : "wanted"), wanted.map(images ? said : shown)),
    ),
    element("div", { class: "answers-by-model" }, split.models.map((name, number) => modelAnswer(query, name, number, answers[number]))),
    commands(queryCommands(query, id)),
  );
}

function modelAnswer(query, name, number, one) {
  const photos = !imagesAsk(query.direction);
  const hit = ({ item, score, correct }, place) =>
    element(
      "li",
      {},
      element("span", { class: "place" }, String(place + 1)),
      photos ? photo(item) : null,
      element(
        "span",
        { class: "what" },
        correct ? element("span", { class: "right" }, "✓ right") : null,
        photos ? content.images.file[item].split("/").at(-1) : content.captions.text[item],
      ),
      element("span", { class: "score" }, score.toFixed(3)),
    );
  const swatch = element("span", { class: "swatch", style: `--series: var(--series-${number % 8})` });
  const why = one.kind ? `: ${kindWords(one.kind)}${one.detail ? ` (${one.detail})` : ""}` : "";
  const verdict = one.rank === null ? "was not asked this" : `rank ${rankWords(one.rank)}${why}`;
  return element(
    "div",
    {},
    element("h3", {}, swatch, name),
    element("p", { class: "verdict" }, verdict),
    element("ol", { class: photos ? "hits photos" : "hits" }, one.hits.map(hit)),
  );
}

/** The commands that give what came first for a query: the section's own, for it alone. */
function queryCommands(query, id) {
  const asked = gallery.split.queries.commands.filter((command) => command.startsWith("clipstore query retrieved"));
  return asked.map((command) => `${command.split(" -p k=")[0]} -p direction=${query.direction} -p query=${id} -p limit=100`);
}
