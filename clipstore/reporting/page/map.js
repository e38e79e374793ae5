// The map: the vectors of one model in a plane.

const MAP_COLOURS = { modality: "image or caption", category: "category", rank: "rank" };
const NAMED_CATEGORIES = 6; // the others share a colour
const MANY_POINTS = 4000; // above, the points are drawn by WebGL where the browser has it
const MODALITIES = [["caption", "captions", "circle", 4], ["image", "images", "diamond", 7]];
const METHODS = { umap: "UMAP", tsne: "t-SNE" };

const mapShown = { split: null, chosen: null };

function mapSection(split) {
  mapShown.split = split;
  mapShown.chosen = null;
  if (!split.map.models) return [empty("The report was made without a map.")];
  if (split.map.reason) return [empty(split.map.reason)];
  return [
    element("form", { class: "controls", id: "map-choice", "aria-label": "What the map shows", onchange: chooseMap, onsubmit: (event) => event.preventDefault() }),
    element("div", { id: "map-legend" }),
    element("div", { class: "map" }, element("div", { id: "map-plot" }), element("div", { class: "point", id: "map-point", "aria-live": "polite" })),
    element("p", { class: "notes" }, `Laid out by ${METHODS[split.map.method]}: the axes have no meaning of their own.`),
    commands(split.map.commands, "Items and ranks by"),
  ];
}

function chooseMap(event) {
  address.go({ [event.target.name]: event.target.value });
}

/** Bring the map to what the address says; nothing where it is so already. */
function showMap(state) {
  const { split } = mapShown;
  if (!split.map.models?.length) return;
  const model = split.map.models.find((one) => one.model === state.map) ?? split.map.models.at(-1);
  const by = Object.hasOwn(MAP_COLOURS, state.colour) ? state.colour : "modality";
  const chosen = JSON.stringify([model.model, by]);
  if (mapShown.chosen === chosen) return;
  mapShown.chosen = chosen;
  const names = split.map.models.map((one) => [one.model, one.model]);
  document.getElementById("map-choice").replaceChildren(
    ...(names.length > 1 ? [choose("map", "Model", names, model.model)] : []),
    choose("colour", "Colour by", Object.entries(MAP_COLOURS), by),
  );
  const groups = mapGroups(model, by);
  document.getElementById("map-legend").replaceChildren(mapLegend(groups, by));
  document.getElementById("map-point").replaceChildren(empty("Point at one to see the item. Images are diamonds."));
  const place = document.getElementById("map-plot");
  forgetCharts(place);
  const label = `The images and captions of ${split.split} as ${model.model} places them, coloured by ${MAP_COLOURS[by]}`;
  place.replaceChildren(chart(null, label, () => mapFigure(model, by, groups), Math.min(620, Math.max(360, innerWidth)), showPoint));
}

/** The groups of points that share a colour: [name, number of the colour, whether a point's image belongs to it]. */
function mapGroups(model, by) {
  if (by === "modality") return [["captions", 0], ["images", 1]];
  if (by === "rank") return [];
  const first = (place) => content.images.categories[place][0];
  const counts = [...grouped(model.image.item.map(first).filter(Boolean), (name) => name)].sort((a, b) => b[1].length - a[1].length);
  const named = counts.slice(0, NAMED_CATEGORIES).map(([name], number) => [name, number + 1]);
  return [...named, [counts.length > NAMED_CATEGORIES ? "others" : "none", 0]];
}

function mapLegend(groups, by) {
  const entry = ([name, own]) => element("li", {}, element("span", { class: "swatch", style: `--series: var(--${own})` }), name);
  const ranks = [["rank 1 as a query", "rank-low"], ["10", "rank-middle"], ["100 and more", "rank-high"]];
  if (by === "rank") return element("ul", { class: "legend" }, ranks.map(entry));
  return element("ul", { class: "legend" }, groups.map(([name, number]) => entry([name, `series-${number}`])));
}

function mapFigure(model, by, groups) {
  const size = model.image.item.length + model.caption.item.length;
  const type = size > MANY_POINTS && hasWebgl() ? "scattergl" : "scatter";
  const scale = size > MANY_POINTS ? 0.6 : 1;
  const data = MODALITIES.map(([kind, words, symbol, points]) => {
    const own = model[kind];
    return {
      type,
      mode: "markers",
      name: words,
      x: own.x,
      y: own.y,
      customdata: own.item.map((item, number) => [kind, item, own.rank[number]]),
      text: own.item.map((item, number) => hoverText(kind, item, own.rank[number])),
      hovertemplate: "%{text}<extra></extra>",
      marker: { symbol, size: scale * points, opacity: kind === "image" ? 0.85 : 0.65, line: { width: 0 }, ...mapMarker(kind, own, by, groups) },
    };
  });
  const axis = { showgrid: false, zeroline: false, showticklabels: false, showline: false, ticks: "", fixedrange: false };
  const dragmode = matchMedia("(pointer: coarse)").matches ? false : "pan"; // else a finger could not scroll past it
  return { data, layout: { xaxis: axis, yaxis: { ...axis, scaleanchor: "x" }, margin: { t: 4, r: 4, b: 4, l: 4 }, dragmode } };
}

function mapMarker(kind, own, by, groups) {
  if (by === "modality") return { color: series(kind === "image" ? 1 : 0) };
  if (by === "rank") {
    return { color: own.rank.map((rank) => (rank === null ? null : Math.log10(Math.min(rank, 100)))), cmin: 0, cmax: 2, colorscale: rankScale() };
  }
  const numbers = new Map(groups.map(([name, number]) => [name, number]));
  const image = (item) => (kind === "image" ? item : content.captions.image[item]);
  return { color: own.item.map((item) => series(numbers.get(content.images.categories[image(item)][0]) ?? 0)) };
}

/** From a colour near the page's to one far from it. */
const rankScale = () => [[0, colour("rank-low")], [0.5, colour("rank-middle")], [1, colour("rank-high")]];

/** What the pointer shows: the item's text, in lines. */
function hoverText(kind, item, rank) {
  const text = kind === "image" ? content.images.file[item] : content.captions.text[item];
  const lines = (text.length > 160 ? `${text.slice(0, 160)}…` : text).match(/.{1,48}(?:\s|$)|.{1,48}/gsu) ?? [""];
  return [...lines.map(plain), rank === null ? "" : `rank ${rankWords(rank)}`].filter(Boolean).join("<br>");
}

/** Show beside the map what the pointer is at. */
function showPoint(event) {
  const [kind, item, rank] = event.points[0].customdata;
  const image = kind === "image" ? item : content.captions.image[item];
  document.getElementById("map-point").replaceChildren(
    photo(image),
    element("p", {}, kind === "image" ? content.images.file[item] : content.captions.text[item]),
    element("p", { class: "verdict" }, rank === null ? "not asked" : `rank ${rankWords(rank)}`),
  );
}

/** Whether the browser can draw by WebGL. */
const hasWebgl = () => Boolean(document.createElement("canvas").getContext("webgl"));
