// The page: sections filled for the split that the address names, and everything brought to what it says.

const SECTIONS = {
  metrics: metricsSection,
  recall: recallSection,
  ranks: ranksSection,
  comparison: comparisonSection,
  categories: categoriesSection,
  lengths: lengthsSection,
  kinds: kindsSection,
  gallery: gallerySection,
  hubs: hubsSection,
  map: mapSection,
  training: trainingSection,
  dataset: datasetSection,
  problems: problemsSection,
};

const shown = { split: null, section: undefined };

function fillContents() {
  const entry = (section) => {
    const heading = section.querySelector("h2");
    heading.id = `${section.id}-title`;
    heading.tabIndex = -1;
    section.setAttribute("aria-labelledby", heading.id);
    section.append(element("div", { class: "body" }));
    return element("li", {}, element("a", { href: `#${section.id}`, "data-to": section.id }, heading.textContent));
  };
  document.getElementById("contents").append(...[...document.querySelectorAll("main > section")].map(entry));
}

/** A link to a section keeps what was chosen. */
function followLink(event) {
  const look = event.target.closest("a[data-state]"); // its address was made when other things may have been chosen
  if (look) {
    event.preventDefault();
    address.go({ ...NO_FILTERS, ...JSON.parse(look.dataset.state) });
    goTo("gallery");
  }
  const link = event.target.closest("a[data-to]");
  if (!link) return;
  event.preventDefault();
  const { to } = link.dataset;
  if (to !== "main") address.go({ section: to });
  goTo(to);
}

function goTo(id) {
  const place = document.getElementById(id);
  if (!place) return;
  place.scrollIntoView();
  (place.querySelector("h2") ?? place).focus({ preventScroll: true });
}

const mark = (link, here) => (here ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current"));

/** In the contents, mark the section that is being read. */
const reading = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) for (const link of document.querySelectorAll("#contents a")) mark(link, link.dataset.to === target.id);
    }
  },
  { rootMargin: "-10% 0px -85% 0px" },
);

function fillAbout(split) {
  document.getElementById("title").textContent = split.split;
  const made = content.made.replace("T", " ").replace("+00:00", " UTC");
  const words = [
    `${plural(split.statistics.images, "image")}, ${plural(split.statistics.captions, "caption")}, ${plural(split.models.length, "model")}: ${split.models.join(", ")}. `,
    `Protocol ${split.protocol}. `,
    content.photos.missing.length ? `${plural(content.photos.missing.length, "photo")} cannot be shown: gone, or unreadable. ` : "",
  ];
  const names = content.splits.map((one) => [one.split, one.split]);
  const picker = names.length > 1 ? choose("split", "Split", names, split.split) : null;
  picker?.addEventListener("change", (event) => address.go({ split: event.target.value, query: "", page: "" }));
  document.getElementById("about").replaceChildren(...words);
  document.getElementById("splits").replaceChildren(...(picker ? [picker] : []));
  document.getElementById("footer").replaceChildren(
    `Made by clipstore ${content.version} on ${made} from `,
    element("code", {}, content.store),
    ". The queries run with --store and that folder. Numbers are as they were then.",
  );
}

function fillSections(split) {
  for (const [id, make] of Object.entries(SECTIONS)) {
    const body = document.querySelector(`#${id} > .body`);
    forgetCharts(body);
    body.replaceChildren(...make(split).flat(Infinity).filter(Boolean));
  }
}

function follow() {
  const state = address.read();
  const split = content.splits.find((one) => one.split === state.split) ?? content.splits[0];
  if (shown.split !== split) {
    fillAbout(split);
    fillSections(split);
    shown.split = split;
  }
  showGallery(state);
  showQuery(state);
  showMap(state);
  if (state.section !== shown.section && state.section !== "gallery") goTo(state.section);
  shown.section = state.section;
}

fillContents();
for (const section of document.querySelectorAll("main > section")) reading.observe(section);
document.addEventListener("click", followLink);
document.getElementById("query").addEventListener("close", () => address.go({ query: "" }));
addEventListener("hashchange", follow);
follow();
if (shown.section === "gallery") goTo("gallery");
