// Plots: drawn when they are near the viewport, and again when the colour scheme changes.

const charts = new Map(); // element -> {draw, drawn}

const near = new IntersectionObserver(
  (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => drawChart(entry.target)),
  { rootMargin: "600px" },
);

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const [plot, chart] of charts) if (chart.drawn) drawChart(plot);
});

/** A colour from the style sheet. */
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

/** The colour of a series by its number. */
const series = (number) => colour(`series-${number % 8}`);

/** A text escaped for plotly, which reads markup in labels. */
const plain = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;");

/**
 * A plot with a title. `draw` returns {data, layout} in the current colours; `label` describes the plot for screen
 * readers; `onhover` receives plotly's event.
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

/** Release all plots within an element. */
function releaseCharts(within) {
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

/** Two mappings merged recursively; values of the second override those of the first. */
function merged(first, second = {}) {
  const both = { ...first };
  for (const [key, value] of Object.entries(second)) {
    const nested = value && typeof value === "object" && !Array.isArray(value) && both[key];
    both[key] = nested ? merged(both[key], value) : value;
  }
  return both;
}

/** A legend of series. */
function legend(names, first = 0) {
  const entry = (name, number) =>
    element("li", {}, element("span", { class: "swatch", style: `--series: var(--series-${(number + first) % 8})` }), name);
  return element("ul", { class: "legend" }, names.map(entry));
}

/** A share in percent; empty if its bar is too small to see. */
const share = (value) => (value < 0.005 ? "" : `${Math.round(100 * value)}%`);

/** Groups of bars, one bar per series [{name, values, number}]; values are written on bars if they fit. */
function groupedBars(groups, seriesList, { range, percent = false } = {}) {
  return {
    data: seriesList.map(({ name, values, number }) => ({
      type: "bar",
      name: plain(name),
      x: groups.map(plain),
      y: values,
      marker: { color: series(number) },
      text: values.map((value) => (value === null ? "" : percent ? share(value) : value.toFixed(2))),
      textposition: "outside",
      textangle: 0,
      cliponaxis: false,
      textfont: { size: 10, color: colour("muted") },
      hovertemplate: `%{x}<br>${plain(name)}: %{y:.3f}<extra></extra>`,
    })),
    layout: {
      barmode: "group",
      uniformtext: { minsize: 9, mode: "hide" },
      yaxis: { range, rangemode: "tozero" },
      xaxis: { type: "category", showgrid: false },
    },
  };
}

/** Bars of counts; horizontal ones, from top to bottom, for names that are words. */
function countBars(names, values, nameTitle, unit, horizontal) {
  const texts = names.map(plain);
  const bar = { type: "bar", marker: { color: series(1) }, hovertemplate: `%{${horizontal ? "y" : "x"}}: %{${horizontal ? "x" : "y"}:,} ${unit}<extra></extra>` };
  const named = { type: "category", showgrid: false };
  const counted = { title: { text: unit } };
  return horizontal
    ? { data: [{ ...bar, orientation: "h", y: texts, x: values }], layout: { yaxis: { ...named, autorange: "reversed", dtick: 1 }, xaxis: counted } }
    : { data: [{ ...bar, x: texts, y: values }], layout: { xaxis: { ...named, title: { text: nameTitle } }, yaxis: counted } };
}
