// The map: the vectors of one model projected to a plane.

const MAP_COLOURS = { modality: "image or caption", category: "category", rank: "rank" };
const NAMED_CATEGORIES = 6; // the others share a colour
const MANY_POINTS = 4000; // more points are drawn with WebGL if the browser supports it
const MODALITIES = [["caption", "captions", "circle", 4], ["image", "images", "diamond", 7]];
const METHODS = { umap: "UMAP", tsne: "t-SNE" };

const mapShown = { split: null, state: null };

function mapSection(split) {
  mapShown.split = split;
  mapShown.state = null;
  if (!split.map.models) return [empty("The report was written with --map none.")];
  if (split.map.reason) return [empty(split.map.reason)];
  return [
    element("form", { class: "controls", id: "map-choice", "aria-label": "Choices of the map", onchange: chooseMap, onsubmit: (event) => event.preventDefault() }),
    element("div", { id: "map-legend" }),
    element("div", { class: "map" }, element("div", { id: "map-plot" }), element("div", { class: "point", id: "map-point", "aria-live": "polite" })),
    element("p", { class: "notes" }, `Projected with ${METHODS[split.map.method]}. The axes have no meaning.`),
    commands(split.map.commands, "Print items and ranks with"),
  ];
}

function chooseMap(event) {
  address.go({ [event.target.name]: event.target.value });
}

/** Update the map to the address, if it changed. */
function showMap(state) {
  const { split } = mapShown;
  if (!split.map.models?.length) return;
  const model = split.map.models.find(({ model }) => model === state.map) ?? split.map.models.at(-1);
  const by = Object.hasOwn(MAP_COLOURS, state.colour) ? state.colour : "modality";
  const next = JSON.stringify([model.model, by]);
  if (mapShown.state === next) return;
  mapShown.state = next;
  const names = split.map.models.map(({ model }) => [model, model]);
  document.getElementById("map-choice").replaceChildren(
    ...(names.length > 1 ? [choose("map", "Model", names, model.model)] : []),
    choose("colour", "Colour by", Object.entries(MAP_COLOURS), by),
  );
  const groups = mapGroups(model, by);
  document.getElementById("map-legend").replaceChildren(mapLegend(groups, by));
  document.getElementById("map-point").replaceChildren(empty("Point at an item to see it. Images are diamonds."));
  const container = document.getElementById("map-plot");
  releaseCharts(container);
  const label = `The images and captions of ${split.split}, projected from the vectors of ${model.model}, coloured by ${MAP_COLOURS[by]}`;
  container.replaceChildren(chart(null, label, () => mapFigure(model, by, groups), Math.min(620, Math.max(360, innerWidth)), showPoint));
}

/** The groups of points that share a colour: [name, number of the colour]. */
function mapGroups(model, by) {
  if (by === "modality") return [["captions", 0], ["images", 1]];
  if (by === "rank") return [];
  const first = (image) => content.images.categories[image][0];
  const counts = [...grouped(model.image.item.map(first).filter(Boolean), (name) => name)].sort((a, b) => b[1].length - a[1].length);
  const named = counts.slice(0, NAMED_CATEGORIES).map(([name], number) => [name, number + 1]);
  return [...named, [counts.length > NAMED_CATEGORIES ? "others" : "none", 0]];
}

function mapLegend(groups, by) {
  const entry = ([name, variable]) => element("li", {}, element("span", { class: "swatch", style: `--series: var(--${variable})` }), name);
  const ranks = [["rank 1 as a query", "rank-low"], ["10", "rank-middle"], ["100 and more", "rank-high"]];
  if (by === "rank") return element("ul", { class: "legend" }, ranks.map(entry));
  return element("ul", { class: "legend" }, groups.map(([name, number]) => entry([name, `series-${number}`])));
}

function mapFigure(model, by, groups) {
  const size = model.image.item.length + model.caption.item.length;
  const type = size > MANY_POINTS && hasWebgl() ? "scattergl" : "scatter";
  const scale = size > MANY_POINTS ? 0.6 : 1;
  const data = MODALITIES.map(([kind, words, symbol, points]) => {
    const columns = model[kind];
    return {
      type,
      mode: "markers",
      name: words,
      x: columns.x,
      y: columns.y,
      customdata: columns.item.map((item, number) => [kind, item, columns.rank[number]]),
      text: columns.item.map((item, number) => hoverText(kind, item, columns.rank[number])),
      hovertemplate: "%{text}<extra></extra>",
      marker: { symbol, size: scale * points, opacity: kind === "image" ? 0.85 : 0.65, line: { width: 0 }, ...mapMarker(kind, columns, by, groups) },
    };
  });
  const axis = { showgrid: false, zeroline: false, showticklabels: false, showline: false, ticks: "", fixedrange: false };
  const dragmode = matchMedia("(pointer: coarse)").matches ? false : "pan"; // otherwise a touch could not scroll past the map
  return { data, layout: { xaxis: axis, yaxis: { ...axis, scaleanchor: "x" }, margin: { t: 4, r: 4, b: 4, l: 4 }, dragmode } };
}

function mapMarker(kind, columns, by, groups) {
  if (by === "modality") return { color: series(kind === "image" ? 1 : 0) };
  if (by === "rank") {
    return { color: columns.rank.map((rank) => (rank === null ? null : Math.log10(Math.min(rank, 100)))), cmin: 0, cmax: 2, colorscale: rankScale() };
  }
  const numbers = new Map(groups.map(([name, number]) => [name, number]));
  const image = (item) => (kind === "image" ? item : content.captions.image[item]);
  return { color: columns.item.map((item) => series(numbers.get(content.images.categories[image(item)][0]) ?? 0)) };
}

/** From a colour close to the page's to one far from it. */
const rankScale = () => [[0, colour("rank-low")], [0.5, colour("rank-middle")], [1, colour("rank-high")]];

/** The text of a tooltip, in lines. */
function hoverText(kind, item, rank) {
  const text = kind === "image" ? content.images.file[item] : content.captions.text[item];
  const lines = (text.length > 160 ? `${text.slice(0, 160)}…` : text).match(/.{1,48}(?:\s|$)|.{1,48}/gsu) ?? [""];
  return [...lines.map(plain), rank === null ? "" : `rank ${rankWords(rank)}`].filter(Boolean).join("<br>");
}

/** Show the item under the pointer beside the map. */
function showPoint(event) {
  const [kind, item, rank] = event.points[0].customdata;
  const image = kind === "image" ? item : content.captions.image[item];
  document.getElementById("map-point").replaceChildren(
    thumbnail(image),
    element("p", {}, kind === "image" ? content.images.file[item] : content.captions.text[item]),
    element("p", { class: "verdict" }, rank === null ? "not a query" : `rank ${rankWords(rank)}`),
  );
}

/** Whether the browser supports WebGL. */
const hasWebgl = () => Boolean(document.createElement("canvas").getContext("webgl"));
