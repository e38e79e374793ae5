// The page: fills the sections for the split in the address, and updates them when the address changes.

const SECTIONS = {
  metrics: metricsSection,
  recall: recallSection,
  ranks: ranksSection,
  comparison: comparisonSection,
  hard: hardSection,
  categories: categoriesSection,
  lengths: lengthsSection,
  kinds: kindsSection,
  gallery: gallerySection,
  hubs: hubsSection,
  map: mapSection,
  zeroshot: zeroshotSection,
  training: trainingSection,
  dataset: datasetSection,
  problems: problemsSection,
};

// Sections about ranks alone, of which the protocol hard-negatives has none.
const RANKED = ["metrics", "recall", "ranks", "categories", "lengths", "kinds", "hubs"];

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

/** A link to a section keeps the choices in the address. */
function followLink(event) {
  const filterLink = event.target.closest("a[data-state]"); // its href may have outdated choices
  if (filterLink) {
    event.preventDefault();
    address.go({ ...NO_FILTERS, ...JSON.parse(filterLink.dataset.state) });
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
  const target = document.getElementById(id);
  if (!target) return;
  target.scrollIntoView();
  (target.querySelector("h2") ?? target).focus({ preventScroll: true });
}

const mark = (link, current) => (current ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current"));

/** Mark the section in view in the list of contents. */
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
  const words = [
    `${plural(split.statistics.images, "image")}, ${plural(split.statistics.captions, "caption")}, ${plural(split.models.length, "model")}: ${split.models.join(", ")}. `,
    `Protocol ${split.protocol}. `,
    content.photos.missing.length ? `${plural(content.photos.missing.length, "image file")} missing or unreadable. ` : "",
  ];
  const names = content.splits.map(({ split: name }) => [name, name]);
  const picker = names.length > 1 ? choose("split", "Split", names, split.split) : null;
  picker?.addEventListener("change", (event) => address.go({ split: event.target.value, query: "", page: "" }));
  document.getElementById("about").replaceChildren(...words);
  document.getElementById("splits").replaceChildren(...(picker ? [picker] : []));
  fillFooter();
}

function fillFooter() {
  const time = content.made.replace("T", " ").replace("+00:00", " UTC");
  document.getElementById("footer").replaceChildren(
    `Written by clipstore ${content.version} on ${time} from `,
    element("code", {}, content.store),
    ". Run the commands with --store and that folder; later evaluations may change their results.",
  );
}

function fillSections(split) {
  const unranked = content.protocols[split.protocol].hard_negatives;
  for (const [id, build] of Object.entries(SECTIONS)) {
    const body = document.querySelector(`#${id} > .body`);
    releaseCharts(body);
    if (unranked && RANKED.includes(id)) {
      body.replaceChildren(empty(`The protocol ${split.protocol} ranks nothing.`));
      continue;
    }
    body.replaceChildren(...build(split).flat(Infinity).filter(Boolean));
  }
}

/** The sections of a store without evaluations. */
const STORE_SECTIONS = ["zeroshot", "problems"];

function showStore() {
  for (const section of document.querySelectorAll("main > section")) {
    if (STORE_SECTIONS.includes(section.id)) section.querySelector(".body").replaceChildren(...SECTIONS[section.id]().flat(Infinity).filter(Boolean));
    else section.remove();
  }
  for (const link of document.querySelectorAll("#contents a")) if (!document.getElementById(link.dataset.to)) link.closest("li").remove();
  fillFooter();
}

function follow() {
  if (!content.splits.length) return;
  const state = address.read();
  const split = content.splits.find(({ split: name }) => name === state.split) ?? content.splits[0];
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
if (!content.splits.length) showStore();
if (shown.section === "gallery") goTo("gallery");
