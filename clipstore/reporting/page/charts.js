// Plots: drawn when they come near, and again when the colours change.

const charts = new Map(); // element -> {draw, drawn}

const near = new IntersectionObserver(
  (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => drawChart(entry.target)),
  { rootMargin: "600px" },
);

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const [plot, chart] of charts) if (chart.drawn) drawChart(plot);
});

/** A colour of the style sheet. */
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

/** The colour of the model, or kind, of this number. */
const series = (number) => colour(`series-${number % 8}`);

/** A text for a plot, in which < and & are themselves: plotly reads markup in its labels. */
const plain = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;");

/**
 * A plot under a title. `draw` gives {data, layout} in the colours of the moment; `label` says what is to be seen;
 * `onhover` takes plotly's event.
 */
function chart(title, label, draw, height = 300, onhover = null) {
  const plot = element("div", { class: "plot", role: "img", "aria-label": label, style: `height: ${height}px` });
  charts.set(plot, { draw, onhover, drawn: false });
  near.observe(plot);
  return element("figure", {}, title ? element("figcaption", {}, title) : null, plot);
}

function drawChart(plot) {
  const chart = charts.get(plot);
  const { data, layout } = chart.draw();
  chart.drawn = true;
  Plotly.react(plot, data, merged(baseLayout(), layout), { displayModeBar: false, responsive: true, scrollZoom: false });
  if (chart.onhover) {
    plot.removeAllListeners("plotly_hover");
    plot.on("plotly_hover", chart.onhover);
  }
}

/** Let all plots within an element go. */
function forgetCharts(within) {
  for (const plot of within.querySelectorAll(".plot")) {
    near.unobserve(plot);
    Plotly.purge(plot);
    charts.delete(plot);
  }
}

function baseLayout() {
  const axis = {
    gridcolor: colour("grid"),
    linecolor: colour("line"),
    zerolinecolor: colour("line"),
    tickcolor: colour("line"),
    automargin: true,
    fixedrange: true,
    title: { font: { size: 12, color: colour("muted") }, standoff: 8 },
  };
  return {
    paper_bgcolor: "transparent",
    plot_bgcolor: "transparent",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: colour("muted") },
    margin: { t: 12, r: 8, b: 36, l: 40 },
    xaxis: axis,
    yaxis: axis,
    showlegend: false,
    hovermode: "closest",
    hoverlabel: { bgcolor: colour("page"), bordercolor: colour("line"), font: { color: colour("text"), size: 13 } },
    bargap: 0.25,
    bargroupgap: 0.06,
  };
}

/** Two mappings as one, mapping by mapping; the second's values go before the first's. */
function merged(first, second = {}) {
  const both = { ...first };
  for (const [key, value] of Object.entries(second)) {
    const nested = value && typeof value === "object" && !Array.isArray(value) && both[key];
    both[key] = nested ? merged(both[key], value) : value;
  }
  return both;
}

/** Which colour is whose. */
function legend(names, first = 0) {
  const entry = (name, number) =>
    element("li", {}, element("span", { class: "swatch", style: `--series: var(--series-${(number + first) % 8})` }), name);
  return element("ul", { class: "legend" }, names.map(entry));
}

/** A share in percent; nothing where it is too small for a bar that one sees. */
const share = (value) => (value < 0.005 ? "" : `${Math.round(100 * value)}%`);

/** Groups of bars, one bar a series. series: [{name, values, number}]; a value is written on its bar where it fits. */
function groupedBars(groups, seriesList, { range, percent = false } = {}) {
  return {
    data: seriesList.map((one) => ({
      type: "bar",
      name: plain(one.name),
      x: groups.map(plain),
      y: one.values,
      marker: { color: series(one.number) },
      text: one.values.map((value) => (value === null ? "" : percent ? share(value) : value.toFixed(2))),
      textposition: "outside",
      textangle: 0,
      cliponaxis: false,
      textfont: { size: 10, color: colour("muted") },
      hovertemplate: `%{x}<br>${plain(one.name)}: %{y:.3f}<extra></extra>`,
    })),
    layout: {
      barmode: "group",
      uniformtext: { minsize: 9, mode: "hide" },
      yaxis: { range, rangemode: "tozero" },
      xaxis: { type: "category", showgrid: false },
    },
  };
}

/** Bars of counts; lying, the first on top, where their names are words. */
function countBars(names, values, what, unit, lying) {
  const texts = names.map(plain);
  const bar = { type: "bar", marker: { color: series(1) }, hovertemplate: `%{${lying ? "y" : "x"}}: %{${lying ? "x" : "y"}:,} ${unit}<extra></extra>` };
  const named = { type: "category", showgrid: false };
  const counted = { title: { text: unit } };
  return lying
    ? { data: [{ ...bar, orientation: "h", y: texts, x: values }], layout: { yaxis: { ...named, autorange: "reversed", dtick: 1 }, xaxis: counted } }
    : { data: [{ ...bar, x: texts, y: values }], layout: { xaxis: { ...named, title: { text: what } }, yaxis: counted } };
}
