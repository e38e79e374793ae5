// The sections, one function each: a split's part of the content -> elements.

const METRICS = [
  ["recall@1", "Recall@1"],
  ["recall@5", "Recall@5"],
  ["recall@10", "Recall@10"],
  ["mrr", "MRR"],
  ["median_rank", "median rank"],
  ["mean_rank", "mean rank"],
];
const MANY_POSITIVES = [
  ["map@r", "mAP@R"],
  ["r_precision", "R-Precision"],
];
const CAPTION_SETS = { all: "all captions", first5: "the first five captions of each image" };
const BARS = METRICS.slice(0, 4);
const SHOWN_CATEGORIES = 24;

/** Rows by the value of a key, in the order of their first. */
const grouped = (rows, key) => Map.groupBy(rows, (row) => (typeof key === "function" ? key(row) : row[key]));

/** A plot for each direction that has rows. */
function byDirection(rows, draw) {
  const groups = [...grouped(rows, "direction")].filter(([direction]) => direction in DIRECTIONS);
  return element("div", { class: "pair" }, groups.map(([direction, own]) => draw(DIRECTIONS[direction], own)));
}

/** The series of a plot: each model with its number, and the value that `of` finds among its rows for each group. */
const modelSeries = (split, rows, groups, of) =>
  split.models.map((name, number) => {
    const own = rows.filter((row) => row.model === name);
    return { name, number, values: groups.map((group) => of(own, group) ?? null) };
  });

// ---- metrics ----

const galleryKey = (row) => JSON.stringify([row.protocol, row.caption_set, Boolean(row.unseen)]);

function metricsSection(split) {
  const galleries = grouped(split.metrics.rows, galleryKey);
  const parts = [...galleries].map(([key, rows]) => {
    const stamps = split.metrics.stamps.filter((stamp) => galleryKey(stamp) === key);
    const heading = `Protocol ${rows[0].protocol}, ${CAPTION_SETS[rows[0].caption_set]}${rows[0].unseen ? ", unseen images alone" : ""}`;
    return part(heading, metricTable(heading, rows), stampList(stamps));
  });
  return [parts, seenPart(split), commands([...split.metrics.commands, ...(split.metrics.seen.rows.length ? split.metrics.seen.commands : [])])];
}

/** A row a model and direction; the best of a column in each direction stands out. */
function metricTable(caption, rows, extra = []) {
  const asked = grouped(rows.filter((row) => row.direction !== "both"), (row) => JSON.stringify([row.model, row.direction, row.subset]));
  const told = [...asked.values()].map((own) => ({ ...own[0], ...Object.fromEntries(own.map((row) => [row.metric, row.value])) }));
  for (const row of told) {
    row.rsum = rows.find((one) => one.metric === "rsum" && one.model === row.model && one.subset === row.subset)?.value;
  }
  const many = ["eccv", "cxc"].includes(rows[0].protocol) ? MANY_POSITIVES : [];
  const columns = [...METRICS, ...many].map(([metric, title]) => {
    const best = bestOf(told, metric, metric.endsWith("_rank"));
    return { title, number: true, of: (row) => (metric.endsWith("_rank") ? row[metric].toFixed(1) : fraction(row[metric])), best };
  });
  return table(caption, [
    { title: "model", head: true, of: (row) => row.model },
    { title: "direction", of: (row) => element("span", { style: "white-space: nowrap" }, DIRECTIONS[row.direction]) },
    ...extra,
    ...columns,
    { title: "RSUM", number: true, of: (row) => row.rsum?.toFixed(1) ?? "", best: bestOf(told, "rsum", false) },
  ], told);
}

/** Whether a row's value is the best of its direction; nobody is where there is one model alone. */
function bestOf(rows, metric, least) {
  return (row) => {
    const others = rows.filter((one) => one.direction === row.direction && one.subset === row.subset).map((one) => one[metric]);
    return others.length > 1 && row[metric] === (least ? Math.min(...others) : Math.max(...others)) && new Set(others).size > 1;
  };
}

function stampList(stamps) {
  const galleries = [...new Set(stamps.map((stamp) => stamp.gallery))].map((words) => element("li", {}, words));
  const models = stamps.map((stamp) => element("li", {}, element("b", {}, stamp.model), `: ${[stamp.vectors, ...stamp.notes].join("; ")}`));
  return element("ul", { class: "notes" }, galleries, models);
}

function seenPart(split) {
  const rows = split.metrics.seen.rows;
  if (!rows.length) return null;
  const parts = [...grouped(rows, galleryKey).values()].map((own) =>
    metricTable("Seen and unseen images apart", own, [{ title: "images", of: (row) => row.subset }]),
  );
  return part("Images that a model was trained on, and the others", parts);
}

/** The metrics of the protocol that the rest of the page is about. */
const chosenMetrics = (split) => split.metrics.rows.filter((row) => galleryKey(row) === galleryKey(split));

function recallSection(split) {
  const rows = chosenMetrics(split);
  return [
    legend(split.models),
    byDirection(rows, (words, own) => {
      const find = (mine, [metric]) => mine.find((row) => row.metric === metric)?.value;
      const draw = () =>
        groupedBars(BARS.map(([, title]) => title), modelSeries(split, own, BARS, find), { range: [0, 1.08] });
      return chart(words, `Recall at 1, 5 and 10 and MRR of each model, ${words}; the table above has the values`, draw);
    }),
    commands(split.metrics.commands),
  ];
}

function ranksSection(split) {
  const { rows } = split.rank_curves;
  const columns = [
    { title: "K", head: true, number: true, of: (row) => count(row.k) },
    { title: "direction", of: (row) => DIRECTIONS[row.direction] },
    { title: "model", of: (row) => row.model },
    { title: "share", number: true, of: (row) => fraction(row.share) },
  ];
  return [
    legend(split.models),
    byDirection(rows, (words, own) =>
      chart(words, `The share of queries with a positive among the first K, against K, ${words}; the table below has the values`, () => ({
        data: split.models.map((name, number) => {
          const mine = own.filter((row) => row.model === name);
          return {
            type: "scatter",
            mode: "lines+markers",
            x: mine.map((row) => row.k),
            y: mine.map((row) => row.share),
            line: { color: series(number), width: 2 },
            marker: { size: 5 },
            hovertemplate: `first %{x}<br>${plain(name)}: %{y:.3f}<extra></extra>`,
          };
        }),
        layout: {
          xaxis: { type: "log", title: { text: "K" }, tickvals: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000] },
          yaxis: { rangemode: "tozero", range: [0, 1.02] },
        },
      })),
    ),
    dataTable("The values as a table", columns, rows),
    commands(split.rank_curves.commands),
  ];
}

// ---- where ----

function categoriesSection(split) {
  const { rows } = split.categories;
  if (!rows.length) return [empty("The data set names no categories of its images.")];
  const last = split.models.at(-1);
  const columns = [
    { title: "category", head: true, of: (row) => row.category },
    { title: "direction", of: (row) => DIRECTIONS[row.direction] },
    { title: "model", of: (row) => row.model },
    { title: "queries", number: true, of: (row) => count(row.queries) },
    { title: "Recall@1", number: true, of: (row) => fraction(row["recall@1"]) },
    { title: "Recall@10", number: true, of: (row) => fraction(row["recall@10"]) },
    { title: "MRR", number: true, of: (row) => fraction(row.mrr) },
  ];
  const all = new Set(rows.map((row) => row.category)).size;
  const told = all > SHOWN_CATEGORIES ? `The ${SHOWN_CATEGORIES} of ${all} categories with the least Recall@1 of ${last}. ` : "";
  return [
    told ? empty(told) : null,
    legend(split.models),
    byDirection(rows, (words, own) => {
      const order = own.filter((row) => row.model === last).slice(0, SHOWN_CATEGORIES).map((row) => row.category).reverse();
      const draw = () => categoryDots(split, own, order);
      return chart(`${words}, Recall@1`, `Recall@1 of each model by category, ${words}; the table below has the values`, draw, 90 + 24 * order.length);
    }),
    dataTable("The values as a table", columns, rows),
    commands(split.categories.commands),
  ];
}

/** A line a category, a dot a model. */
function categoryDots(split, rows, order) {
  const value = (own, category) => own.find((row) => row.category === category)?.["recall@1"];
  return {
    data: modelSeries(split, rows, order, value).map((one) => ({
      type: "scatter",
      mode: "markers",
      y: order.map(plain),
      x: one.values,
      marker: { color: series(one.number), size: 9 },
      hovertemplate: `%{y}<br>${plain(one.name)}: %{x:.3f}<extra></extra>`,
    })),
    layout: { yaxis: { type: "category" }, xaxis: { rangemode: "tozero" } },
  };
}

function lengthsSection(split) {
  const { rows } = split.caption_lengths;
  if (!rows.length) return [empty("No caption asked.")];
  const lengths = [...new Set(rows.map((row) => row.caption_words))].sort((a, b) => parseInt(a, 10) - parseInt(b, 10));
  const queries = (words) => rows.find((row) => row.caption_words === words).queries;
  const bars = (metric, title) =>
    chart(title, `${title} by the words of the caption; the table below has the values`, () => {
      const value = (own, words) => own.find((row) => row.caption_words === words)?.[metric];
      const drawn = groupedBars(lengths, modelSeries(split, rows, lengths, value), { range: [0, 1.08] });
      return { ...drawn, layout: merged(drawn.layout, { xaxis: { title: { text: "words" } } }) };
    });
  const columns = [
    { title: "words", head: true, of: (row) => row.caption_words },
    { title: "model", of: (row) => row.model },
    { title: "queries", number: true, of: (row) => count(row.queries) },
    { title: "Recall@1", number: true, of: (row) => fraction(row["recall@1"]) },
    { title: "Recall@10", number: true, of: (row) => fraction(row["recall@10"]) },
    { title: "MRR", number: true, of: (row) => fraction(row.mrr) },
  ];
  return [
    legend(split.models),
    element("div", { class: "pair" }, bars("recall@1", "Recall@1"), bars("recall@10", "Recall@10")),
    element("p", { class: "notes" }, `Queries: ${lengths.map((words) => `${count(queries(words))} of ${words} words`).join(", ")}.`),
    dataTable("The values as a table", columns, rows),
    commands(split.caption_lengths.commands),
  ];
}

// ---- hubs ----

function hubsSection(split) {
  const { rows } = split.hubs;
  const columns = [
    { title: "item", wide: true, head: true, of: (row) => row.item },
    { title: "queries", number: true, of: (row) => count(row.times) },
    { title: "mean item", number: true, of: (row) => row.mean_times.toFixed(1) },
  ];
  const parts = [...grouped(rows, (row) => JSON.stringify([row.model, row.direction])).values()].map((own) => {
    const heading = `${own[0].model}, ${DIRECTIONS[own[0].direction]}`;
    return part(heading, table(heading, columns, own));
  });
  return [element("div", { class: "pair" }, parts), commands(split.hubs.commands)];
}

// ---- training, the data set, what failed ----

function trainingSection(split) {
  const trained = split.training;
  if (!trained.length) return [empty("This store trained none of these models.")];
  const number = (model) => split.models.indexOf(model);
  const curve = (title, key) =>
    chart(title, `${title} by epoch; the table below has the values`, () => ({
      data: trained.map((one) => ({
        type: "scatter",
        mode: "lines+markers",
        x: one.rows.map((row) => row.epoch),
        y: one.rows.map((row) => row[key]),
        line: { color: series(number(one.model)), width: 2 },
        marker: { size: 5 },
        hovertemplate: `epoch %{x}<br>${plain(one.model)}: %{y:.3f}<extra></extra>`,
      })),
      layout: { xaxis: { title: { text: "epoch" }, rangemode: "tozero", dtick: 1 } },
    }), 260);
  const columns = [
    { title: "epoch", head: true, number: true, of: (row) => count(row.epoch) },
    { title: "loss", number: true, of: (row) => row.loss?.toFixed(4) ?? "" },
    { title: "image → text Recall@1", number: true, of: (row) => fraction(row["text_retrieval_recall@1"]) },
    { title: "text → image Recall@1", number: true, of: (row) => fraction(row["image_retrieval_recall@1"]) },
    { title: "RSUM", number: true, of: (row) => row.rsum?.toFixed(1) ?? "" },
    { title: "seconds", number: true, of: (row) => row.seconds?.toFixed(1) ?? "" },
  ];
  return [
    legend(split.models),
    element(
      "div",
      { class: "pair" },
      curve("Loss", "loss"),
      curve("image → text, Recall@1", "text_retrieval_recall@1"),
      curve("text → image, Recall@1", "image_retrieval_recall@1"),
    ),
    trained.map((one) => dataTable(`${one.model} as a table`, columns, one.rows)),
    commands(trained.flatMap((one) => one.commands)),
  ];
}

function datasetSection(split) {
  const told = split.statistics;
  const facts = [
    ["images", count(told.images)],
    ["photos missing", count(told.missing_photos)],
    ["captions", count(told.captions)],
    ["captions an image", told.mean_captions?.toFixed(2) ?? ""],
    ["words", count(told.words)],
    ["vocabulary", count(told.vocabulary)],
    ["words a caption", told.captions ? `${told.shortest} to ${told.longest}, mean ${told.mean_words.toFixed(1)}` : ""],
    ["repeated captions", count(told.repeated)],
    ["texts at several images", count(told.texts_at_several_images)],
  ];
  const bars = (title, rows, what, unit) =>
    rows.length
      ? chart(title, `${title}, as bars`, () => countBars(rows.map((row) => row[what]), rows.map((row) => row[unit]), what, unit), 260)
      : null;
  const repeated = [
    { title: "text", head: true, wide: true, of: (row) => row.text },
    { title: "captions", number: true, of: (row) => count(row.captions) },
    { title: "images", number: true, of: (row) => count(row.images) },
  ];
  return [
    element("dl", { class: "facts" }, facts.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value)))),
    element(
      "div",
      { class: "pair part" },
      bars("Words of a caption", told.caption_lengths, "words", "captions"),
      bars("Captions of an image", told.captions_per_image, "captions", "images"),
      bars("Most frequent words", told.frequent_words, "word", "times"),
      bars("Images that show a category", told.categories.slice(0, SHOWN_CATEGORIES), "category", "images"),
    ),
    told.repeated_captions.length ? part("Texts that stand most often", table("Texts that stand most often", repeated, told.repeated_captions)) : null,
    commands(told.commands),
  ];
}

function problemsSection() {
  const { rows } = content.item_failures;
  if (!rows.length) return [empty("None: every photo and caption of the store that was embedded gave a vector."), commands(content.item_failures.commands)];
  const columns = [
    { title: "item", head: true, wide: true, of: (row) => row.item },
    { title: "data set", of: (row) => row.dataset },
    { title: "model", of: (row) => row.model ?? "any" },
    { title: "tower", of: (row) => row.tower },
    { title: "reason", wide: true, of: (row) => row.reason },
  ];
  return [table("Items that failed", columns, rows), commands(content.item_failures.commands)];
}
