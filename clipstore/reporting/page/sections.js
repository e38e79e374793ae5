// The sections, one function each: from the content of a split to elements.

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

/** Rows grouped by a key, in the order of each group's first row. */
const grouped = (rows, key) => Map.groupBy(rows, (row) => (typeof key === "function" ? key(row) : row[key]));

/** A plot for each direction with rows. */
function byDirection(rows, draw) {
  const groups = [...grouped(rows, "direction")].filter(([direction]) => direction in DIRECTIONS);
  return element("div", { class: "pair" }, groups.map(([direction, directionRows]) => draw(DIRECTIONS[direction], directionRows)));
}

/** The series of a plot: each model with its number, and the value `of(its rows, group)` for each group. */
const modelSeries = (split, rows, groups, of) =>
  split.models.map((name, number) => {
    const modelRows = rows.filter((row) => row.model === name);
    return { name, number, values: groups.map((group) => of(modelRows, group) ?? null) };
  });

// ---- metrics ----

const galleryKey = (row) => JSON.stringify([row.protocol, row.caption_set, Boolean(row.unseen)]);

function metricsSection(split) {
  const galleries = grouped(split.metrics.rows, galleryKey);
  const parts = [...galleries].map(([key, rows]) => {
    const provenance = split.metrics.provenance.filter((evaluation) => galleryKey(evaluation) === key);
    const heading = `Protocol ${rows[0].protocol}, ${CAPTION_SETS[rows[0].caption_set]}${rows[0].unseen ? ", unseen images only" : ""}`;
    return part(heading, metricTable(heading, inOrder(split, rows)), provenanceList(inOrder(split, provenance)));
  });
  return [parts, seenPart(split), commands([...split.metrics.commands, ...(split.metrics.seen.rows.length ? split.metrics.seen.commands : [])])];
}

/** One row per model and direction; the best value of a column in each direction is highlighted. */
function metricTable(caption, rows, extra = []) {
  const groups = grouped(rows.filter((row) => row.direction !== "both"), (row) => JSON.stringify([row.model, row.direction, row.subset]));
  const tableRows = [...groups.values()].map((group) => ({ ...group[0], ...Object.fromEntries(group.map((row) => [row.metric, row.value])) }));
  for (const row of tableRows) {
    row.rsum = rows.find(({ metric, model, subset }) => metric === "rsum" && model === row.model && subset === row.subset)?.value;
  }
  const many = content.protocols[rows[0].protocol].extended ? MANY_POSITIVES : [];
  const columns = [...METRICS, ...many].map(([metric, title]) => {
    const best = bestOf(tableRows, metric, metric.endsWith("_rank"));
    return { title, number: true, of: (row) => (metric.endsWith("_rank") ? row[metric].toFixed(1) : fraction(row[metric])), best };
  });
  return table(caption, [
    { title: "model", head: true, of: (row) => row.model },
    { title: "direction", of: (row) => element("span", { class: "unbroken" }, DIRECTIONS[row.direction]) },
    ...extra,
    ...columns,
    { title: "RSUM", number: true, of: (row) => row.rsum?.toFixed(1) ?? "", best: bestOf(tableRows, "rsum", false) },
  ], tableRows);
}

/** Whether a row has the best value of its direction, as printed; there is none if all are equal. */
function bestOf(rows, metric, least) {
  const shown = (row) => Number(row[metric]?.toFixed(metric in NUMBERS ? 1 : 3));
  return (row) => {
    const others = rows.filter(({ direction, subset }) => direction === row.direction && subset === row.subset).map(shown);
    return new Set(others).size > 1 && shown(row) === (least ? Math.min(...others) : Math.max(...others));
  };
}

function provenanceList(provenance) {
  const galleries = [...new Set(provenance.map((evaluation) => evaluation.gallery))].map((words) => element("li", {}, words));
  const models = provenance.map((evaluation) => element("li", {}, element("b", {}, evaluation.model), `: ${[evaluation.vectors, ...evaluation.notes].join("; ")}`));
  return element("ul", { class: "notes" }, galleries, models);
}

function seenPart(split) {
  const rows = split.metrics.seen.rows;
  if (!rows.length) return null;
  const parts = [...grouped(rows, galleryKey).values()].map((galleryRows) =>
    metricTable("Seen and unseen images", inOrder(split, galleryRows), [{ title: "images", of: (row) => row.subset }]),
  );
  return part("Seen images (trained on) and unseen images", parts);
}

/** Rows in the order of the split's models. */
function inOrder(split, rows) {
  const place = ({ model }) => (split.models.includes(model) ? split.models.indexOf(model) : split.models.length);
  return [...rows].sort((a, b) => place(a) - place(b));
}

/** The metrics of the selected evaluations, which the other sections are about. */
const chosenMetrics = (split) => split.metrics.rows.filter((row) => galleryKey(row) === galleryKey(split));

function recallSection(split) {
  const rows = chosenMetrics(split);
  return [
    legend(split.models),
    byDirection(rows, (words, directionRows) => {
      const find = (modelRows, [metric]) => modelRows.find((row) => row.metric === metric)?.value;
      const draw = () =>
        groupedBars(BARS.map(([, title]) => title), modelSeries(split, directionRows, BARS, find), { range: [0, 1.08] });
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
    byDirection(rows, (words, directionRows) =>
      chart(words, `The share of queries with a positive among the first K, against K, ${words}; the table below has the values`, () => ({
        data: split.models.map((name, number) => {
          const modelRows = directionRows.filter((row) => row.model === name);
          return {
            type: "scatter",
            mode: "lines+markers",
            x: modelRows.map((row) => row.k),
            y: modelRows.map((row) => row.share),
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
    dataTable("Shares of queries by K", columns, rows),
    commands(split.rank_curves.commands),
  ];
}

// ---- the comparison ----

const NUMBERS = { mean_rank: 1, rsum: 1 }; // decimals; fractions have three
const numberWords = (metric, value) => (value === null ? "" : value.toFixed(NUMBERS[metric] ?? 3));
const signed = (metric, value) => (value === null ? "" : `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(NUMBERS[metric] ?? 3)}`);
const METRIC_WORDS = { ...Object.fromEntries(METRICS), rsum: "RSUM", accuracy: "all pairs", macro_accuracy: "mean of subsets" };
const metricWords = (metric) => METRIC_WORDS[metric] ?? metric.replace(/^accuracy\//, "");
const VERDICTS = { better: "good", worse: "bad" };

function comparisonSection(split) {
  const { comparison } = split;
  if (comparison.reason) return [empty(comparison.reason)];
  const unranked = content.protocols[split.protocol].hard_negatives;
  return [
    legend(split.models.slice(1).map((name) => `${name} compared with ${comparison.baseline}`), 1),
    unranked ? null : element("div", { class: "pair" }, Object.keys(DIRECTIONS).map((direction) => differencePlot(comparison, direction))),
    comparison.models.map((model) => part(`${model.model} compared with ${comparison.baseline}`, differenceTable(comparison, model))),
    part("Queries", unranked ? hardChangeTable(comparison) : changeTable(comparison)),
    element("ul", { class: "notes" }, comparison.basis.map((line) => element("li", {}, line))),
    commands(comparison.commands),
  ];
}

/** The difference of each metric with its interval, one line per metric. */
function differencePlot(comparison, direction) {
  const height = 110 + BARS.length * 22 * (comparison.models.length + 1);
  const label = `Difference from ${comparison.baseline} with its interval, ${DIRECTIONS[direction]}; the tables below have the values`;
  const draw = () => ({
    data: [
      ...comparison.models.map((model, number) => {
        const rows = BARS.map(([metric]) => model.differences.find((row) => row.direction === direction && row.metric === metric));
        const offset = (number - (comparison.models.length - 1) / 2) * (0.6 / comparison.models.length);
        return {
          type: "scatter",
          mode: "markers",
          x: rows.map((row) => row?.difference ?? null),
          y: BARS.map((_, line) => line + offset),
          error_x: {
            type: "data",
            symmetric: false,
            array: rows.map((row) => (row?.high ?? NaN) - row?.difference),
            arrayminus: rows.map((row) => row?.difference - (row?.low ?? NaN)),
            thickness: 2,
            width: 4,
          },
          marker: { color: series(number + 1), size: 8 },
          text: rows.map((row, line) => `${BARS[line][1]}: ${signed("", row?.difference ?? null)}, ${signed("", row?.low ?? null)} to ${signed("", row?.high ?? null)}`),
          hovertemplate: `${plain(model.model)}<br>%{text}<extra></extra>`,
        };
      }),
    ],
    layout: {
      xaxis: { rangemode: "tozero", zeroline: true, zerolinecolor: colour("muted"), zerolinewidth: 1, tickformat: "+.2f", title: { text: `difference from ${plain(comparison.baseline)}` } },
      yaxis: { tickvals: BARS.map((_, line) => line), ticktext: BARS.map(([, title]) => title), range: [BARS.length - 0.5, -0.5], zeroline: false },
    },
  });
  return chart(DIRECTIONS[direction], label, draw, height);
}

function differenceTable(comparison, model) {
  const interval = (row) => (row.low === null ? "" : `${signed(row.metric, row.low)} to ${signed(row.metric, row.high)}`);
  return table(`${model.model} compared with ${comparison.baseline}`, [
    { title: "direction", of: (row) => element("span", { class: "unbroken" }, DIRECTIONS[row.direction] ?? "both") },
    { title: "metric", head: true, of: (row) => metricWords(row.metric) },
    { title: comparison.baseline, number: true, of: (row) => numberWords(row.metric, row.baseline) },
    { title: model.model, number: true, of: (row) => numberWords(row.metric, row.value) },
    { title: "difference", number: true, of: (row) => signed(row.metric, row.difference) },
    { title: `${Math.round(100 * comparison.method.confidence)} % interval`, number: true, of: interval },
    { title: "p", number: true, of: (row) => row.p.toFixed(4) },
    { title: "p (Holm)", number: true, of: (row) => row.p_holm.toFixed(4) },
    { title: "verdict", of: (row) => element("span", { class: `unbroken ${VERDICTS[row.verdict] ?? ""}` }, row.verdict) },
  ], model.differences);
}

function changeTable(comparison) {
  const rows = comparison.models.flatMap((model) => model.queries.map((row) => ({ model: model.model, ...row })));
  const link = (row, show) => {
    const state = { show, baseline: comparison.baseline, model: row.model, direction: row.direction, section: "gallery" };
    return element("a", { href: address.of(state), "data-state": JSON.stringify(state) }, count(row[show]));
  };
  return table("Queries fixed and broken", [
    { title: "model", head: true, of: (row) => row.model },
    { title: "direction", of: (row) => element("span", { class: "unbroken" }, DIRECTIONS[row.direction]) },
    { title: "fixed", number: true, of: (row) => link(row, "fixed") },
    { title: "broken", number: true, of: (row) => link(row, "broken") },
    { title: "unchanged", number: true, of: (row) => count(row.unchanged) },
    { title: "better rank", number: true, of: (row) => count(row.better) },
    { title: "worse rank", number: true, of: (row) => count(row.worse) },
  ], rows);
}

// ---- hard negatives ----

function hardChangeTable(comparison) {
  const rows = comparison.models.flatMap((model) => model.queries.map((row) => ({ model: model.model, ...row })));
  return table("Pairs fixed and broken", [
    { title: "model", head: true, of: (row) => row.model },
    { title: "subset", of: (row) => row.subset },
    ...["fixed", "broken", "unchanged"].map((title) => ({ title, number: true, of: (row) => count(row[title]) })),
  ], rows);
}

/** A table for each split, one row per model and subset. */
function hardSection(split) {
  const { rows } = split.hard_negatives;
  if (!rows.length) return [empty("No model of this page was evaluated with --protocol hard-negatives.")];
  const counts = ["pairs", "images", "left_out", "ties"];
  const heading = ({ split: name, unseen }) => `${name}${unseen ? ", unseen images only" : ""}`;
  const parts = [...grouped(rows, heading)].map(([words, group]) =>
    part(words, table(`Hard negatives of ${words}`, [
      { title: "subset", head: true, of: (row) => row.subset },
      { title: "model", of: (row) => row.model },
      ...counts.map((title) => ({ title: title.replace("_", " "), number: true, of: (row) => count(row[title]) })),
      { title: "accuracy", number: true, of: (row) => fraction(row.accuracy) },
    ], [...grouped(inOrder(split, group), "subset").values()].flat())),
  );
  return [parts, commands(split.hard_negatives.commands)];
}

// ---- failures by category and caption length ----

function categoriesSection(split) {
  const { rows } = split.categories;
  if (!rows.length) return [empty("The dataset has no categories.")];
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
  const limit = all > SHOWN_CATEGORIES ? `The ${SHOWN_CATEGORIES} of ${all} categories with the lowest Recall@1 of ${last}. ` : "";
  return [
    limit ? empty(limit) : null,
    legend(split.models),
    byDirection(rows, (words, directionRows) => {
      const order = directionRows.filter((row) => row.model === last).slice(0, SHOWN_CATEGORIES).map((row) => row.category).reverse();
      const draw = () => categoryDots(split, directionRows, order);
      return chart(`${words}, Recall@1`, `Recall@1 of each model by category, ${words}; the table below has the values`, draw, 90 + 24 * order.length);
    }),
    dataTable("Metrics by category", columns, rows),
    commands(split.categories.commands),
  ];
}

/** One line per category, one dot per model. */
function categoryDots(split, rows, order) {
  const value = (modelRows, category) => modelRows.find((row) => row.category === category)?.["recall@1"];
  return {
    data: modelSeries(split, rows, order, value).map(({ name, number, values }) => ({
      type: "scatter",
      mode: "markers",
      y: order.map(plain),
      x: values,
      marker: { color: series(number), size: 9 },
      hovertemplate: `%{y}<br>${plain(name)}: %{x:.3f}<extra></extra>`,
    })),
    layout: { yaxis: { type: "category" }, xaxis: { rangemode: "tozero" } },
  };
}

function lengthsSection(split) {
  const { rows } = split.caption_lengths;
  if (!rows.length) return [empty("There are no text → image queries.")];
  const lengths = [...new Set(rows.map((row) => row.caption_words))].sort((a, b) => parseInt(a, 10) - parseInt(b, 10));
  const queries = (words) => rows.find((row) => row.caption_words === words).queries;
  const bars = (metric, title) =>
    chart(title, `${title} by the number of words of the caption; the table below has the values`, () => {
      const value = (modelRows, words) => modelRows.find((row) => row.caption_words === words)?.[metric];
      const plot = groupedBars(lengths, modelSeries(split, rows, lengths, value), { range: [0, 1.08] });
      return { ...plot, layout: merged(plot.layout, { xaxis: { title: { text: "words" } } }) };
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
    dataTable("Metrics by caption length", columns, rows),
    commands(split.caption_lengths.commands),
  ];
}

// ---- kinds of failure ----

const KINDS = {
  equal_caption: "equal caption",
  near_duplicate: "near duplicate",
  extra_positive: "correct, but not annotated",
  hub: "hub",
  wrong_attribute: "wrong attribute",
  wrong_count: "wrong count",
  wrong_relation: "wrong relation",
  wrong_categories: "wrong categories",
  unclassified: "unclassified",
};

/** The label of a kind of failure. */
const kindWords = (kind) => KINDS[kind] ?? kind.replaceAll("_", " ");

/** The kinds of failure that occur, in the order of their rules. */
const kindsOf = (split) => [...new Set(split.failure_kinds.rows.filter((row) => row.failures).map((row) => row.kind))].sort((a, b) => Object.keys(KINDS).indexOf(a) - Object.keys(KINDS).indexOf(b));

function kindsSection(split) {
  const { rows } = split.failure_kinds;
  const kinds = kindsOf(split);
  if (!kinds.length) return [empty("No query failed."), commands(split.failure_kinds.commands)];
  const columns = [
    { title: "kind", head: true, of: (row) => kindWords(row.kind) },
    { title: "direction", of: (row) => element("span", { class: "unbroken" }, DIRECTIONS[row.direction]) },
    { title: "model", of: (row) => row.model },
    { title: "failures", number: true, of: (row) => count(row.failures) },
    { title: "of failures", number: true, of: (row) => percent(row.of_failures) },
    { title: "of queries", number: true, of: (row) => percent(row.of_queries) },
  ];
  const colours = Object.fromEntries(kinds.map((kind) => [kind, Object.keys(KINDS).indexOf(kind)]));
  const entry = (kind) => element("li", {}, element("span", { class: "swatch", style: `--series: var(--kind-${colours[kind]})` }), kindWords(kind));
  return [
    element("ul", { class: "legend" }, kinds.map(entry)),
    byDirection(rows, (words, directionRows) => {
      const names = split.models.toReversed();
      const draw = () => ({
        data: kinds.map((kind) => ({
          type: "bar",
          orientation: "h",
          y: names.map(plain),
          x: names.map((name) => directionRows.find((row) => row.model === name && row.kind === kind)?.of_queries ?? 0),
          marker: { color: colour(`kind-${colours[kind]}`) },
          hovertemplate: `%{y}<br>${kindWords(kind)}: %{x:.1%} of queries<extra></extra>`,
        })),
        layout: { barmode: "stack", xaxis: { tickformat: ".0%", title: { text: "of queries" } }, yaxis: { type: "category", showgrid: false } },
      });
      return chart(words, `Kinds of failure of each model, ${words}; the table below has the values`, draw, 80 + 34 * names.length);
    }),
    dataTable("Kinds of failure", columns, inOrder(split, rows).filter((row) => row.failures)),
    commands(split.failure_kinds.commands),
  ];
}

// ---- hubs ----

function hubsSection(split) {
  const { most, hubness, times } = split.hubs;
  const bins = [...new Set(times.rows.map((row) => row.times))].sort((a, b) => binStart(a) - binStart(b));
  const columns = [
    { title: "model", head: true, of: (row) => row.model },
    { title: "direction", of: (row) => element("span", { class: "unbroken" }, DIRECTIONS[row.direction]) },
    { title: "items", number: true, of: (row) => count(row.items) },
    { title: "mean queries", number: true, of: (row) => row.mean_times.toFixed(1) },
    { title: "most queries", number: true, of: (row) => count(row.largest) },
    { title: "skewness", number: true, of: (row) => row.skewness?.toFixed(2) ?? "" },
    { title: "anti-hubs", number: true, of: (row) => percent(row.anti_hubs) },
    { title: "hubs", number: true, of: (row) => count(row.hubs) },
    { title: "share of hits that are hubs", number: true, of: (row) => percent(row.hub_share) },
  ];
  const timesColumns = [
    { title: "queries", head: true, of: (row) => row.times },
    { title: "direction", of: (row) => DIRECTIONS[row.direction] },
    { title: "model", of: (row) => row.model },
    { title: "items", number: true, of: (row) => count(row.items) },
    { title: "share", number: true, of: (row) => percent(row.share) },
  ];
  return [
    table("Hubness", columns, inOrder(split, hubness.rows)),
    part("Items by the number of queries that have them in the top 10", legend(split.models), byDirection(times.rows, (words, directionRows) => {
      const occurring = bins.filter((bin) => directionRows.some((row) => row.times === bin));
      const value = (modelRows, bin) => modelRows.find((row) => row.times === bin)?.share ?? 0;
      const label = `The share of items by the number of queries that retrieve them, ${words}; the table below has the values`;
      const draw = () => merged(groupedBars(occurring, modelSeries(split, directionRows, occurring, value), { percent: true }), { layout: { xaxis: { title: { text: "queries" } }, yaxis: { tickformat: ".0%" } } });
      return chart(words, label, draw, 260);
    }), dataTable("Items by number of queries", timesColumns, times.rows)),
    element("div", { class: "pair" }, mostRetrieved(split, most.rows)),
    commands([...hubness.commands, ...times.commands, ...most.commands]),
  ];
}

/** The items that are retrieved most often, for each model and direction. */
function mostRetrieved(split, rows) {
  return [...grouped(rows, (row) => JSON.stringify([row.model, row.direction])).values()].map((group) => {
    const [{ model, direction }] = group;
    const images = direction === "text_to_image";
    const times = (row) => element("span", { class: "label" }, plural(row.times, "query", "queries"));
    const item = (row) => element("li", {}, images ? thumbnail(row.place) : element("span", { class: "text" }, row.item), times(row));
    return part(
      `${model}, ${DIRECTIONS[direction]}: most retrieved`,
      element("ol", { class: images ? "hubs images" : "hubs" }, group.map(item)),
    );
  });
}

const binStart = (bin) => parseInt(bin.replace("above", ""), 10) + (bin.startsWith("above") ? 0.5 : 0);

// ---- training, the dataset, items that failed ----

function trainingSection(split) {
  const trained = split.training;
  if (!trained.length) return [empty("None of these models was trained in this store.")];
  const number = (model) => split.models.indexOf(model);
  const curve = (title, key) =>
    chart(title, `${title} by epoch; the table below has the values`, () => ({
      data: trained.map(({ model, rows }) => ({
        type: "scatter",
        mode: "lines+markers",
        x: rows.map((row) => row.epoch),
        y: rows.map((row) => row[key]),
        line: { color: series(number(model)), width: 2 },
        marker: { size: 5 },
        hovertemplate: `epoch %{x}<br>${plain(model)}: %{y:.3f}<extra></extra>`,
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
      { class: "pair narrow" },
      curve("Loss", "loss"),
      curve("image → text, Recall@1", "text_retrieval_recall@1"),
      curve("text → image, Recall@1", "image_retrieval_recall@1"),
    ),
    trained.map(({ model, rows }) => part(model, dataTable(`Training of ${model}`, columns, rows))),
    commands(trained.flatMap((training) => training.commands)),
  ];
}

function datasetSection(split) {
  const { statistics } = split;
  const facts = [
    ["images", count(statistics.images)],
    ["image files missing", count(statistics.missing_photos)],
    ["captions", count(statistics.captions)],
    ["captions per image", statistics.mean_captions?.toFixed(2) ?? ""],
    ["words", count(statistics.words)],
    ["vocabulary", count(statistics.vocabulary)],
    ["words per caption", statistics.captions ? `${statistics.shortest} to ${statistics.longest}, mean ${statistics.mean_words.toFixed(1)}` : ""],
    ["repeated captions", count(statistics.repeated)],
    ["texts of several images", count(statistics.texts_at_several_images)],
  ];
  const bars = (title, rows, name, unit, horizontal = false) => {
    if (!rows.length) return null;
    const draw = () => countBars(rows.map((row) => row[name]), rows.map((row) => row[unit]), name, unit, horizontal);
    const columns = [
      { title: name, head: true, of: (row) => String(row[name]) },
      { title: unit, number: true, of: (row) => count(row[unit]) },
    ];
    const label = `${title}; the table below has the values`;
    return element("div", {}, chart(title, label, draw, horizontal ? 70 + 18 * rows.length : 260), dataTable(title, columns, rows));
  };
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
      bars("Words per caption", statistics.caption_lengths, "words", "captions"),
      bars("Captions per image", statistics.captions_per_image, "captions", "images"),
      bars("Most frequent words", statistics.frequent_words, "word", "times", true),
      bars("Images per category", statistics.categories.slice(0, SHOWN_CATEGORIES), "category", "images", true),
    ),
    statistics.repeated_captions.length ? part(`Most frequent captions, ${count(statistics.repeated_captions.length)} of ${count(statistics.repeated_texts)}`, table("Most frequent captions", repeated, statistics.repeated_captions)) : null,
    commands(statistics.commands),
  ];
}

function zeroshotSection() {
  if (!content.zeroshot.length) return [empty("No zero-shot classification is stored. 'clipstore zeroshot --split SPLIT' classifies the images of a split with categories.")];
  return content.zeroshot.map((group) =>
    part(
      group.title,
      table(`Zero-shot metrics, ${group.title}`, [{ title: "metric", head: true, of: (row) => row.metric }, ...valueColumns(group)], group.metrics),
      element("ul", { class: "notes" }, group.notes.map((line) => element("li", {}, line))),
      classTable(group),
      group.confusions.map((confusions) => confusionTable(group, confusions)),
      commands(group.commands),
    ),
  );
}

/** The values of each model and of a random order. */
const valueColumns = (group) => [
  ...group.models.map((name, number) => ({ title: name, number: true, of: (row) => fraction(row.values[number]) })),
  { title: "chance", number: true, of: (row) => fraction(row.chance) },
];

function classTable(group) {
  const caption = `Zero-shot ${group.by_class} by class, ${group.title}`;
  const columns = [
    { title: "class", head: true, of: (row) => row.class },
    { title: "images", number: true, of: (row) => count(row.images) },
    ...valueColumns(group),
  ];
  const words = `${group.by_class} of ${plural(group.classes.length, "class", "classes")}`;
  return element("details", { class: "data" }, element("summary", {}, words), table(caption, columns, group.classes));
}

function confusionTable(group, { model, total, rows }) {
  const columns = [
    { title: "class", head: true, of: (row) => row.class },
    { title: "predicted", of: (row) => row.predicted },
    { title: "images", number: true, of: (row) => count(row.images) },
  ];
  const shown = rows.length < total ? `the ${rows.length} most frequent of ${count(total)}` : count(total);
  const summary = element("summary", {}, `Confused classes of ${model}: ${shown}`);
  return element("details", { class: "data" }, summary, table(`Classes that ${model} confuses, ${group.title}`, columns, rows));
}

function problemsSection() {
  const { rows, total } = content.item_failures;
  if (!rows.length) return [empty("No image or caption of the store failed."), commands(content.item_failures.commands)];
  const columns = [
    { title: "item", head: true, wide: true, of: (row) => row.item },
    { title: "dataset", of: (row) => row.dataset },
    { title: "model", of: (row) => row.model ?? "any" },
    { title: "tower", of: (row) => row.tower },
    { title: "reason", wide: true, of: (row) => row.reason },
  ];
  const cut = total > rows.length ? element("p", {}, `${count(rows.length)} of ${count(total)} items are listed.`) : null;
  return [cut, table("Items that failed", columns, rows), commands(content.item_failures.commands)];
}
