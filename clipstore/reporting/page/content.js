// What was measured, as clipstore wrote it into the page; and its photos, decoded when they are to be seen.

const content = JSON.parse(document.getElementById("content").textContent);

const missingPhotos = new Set(content.photos.missing);
const photoChunks = new Map();

/** Where the browser finds a photo by its place: in the page itself, or in the folder beside it. */
function photoAddress(place) {
  const { folder, chunk } = content.photos;
  if (folder) return `${encodeURIComponent(folder)}/${place}.webp`;
  const number = Math.floor(place / chunk);
  if (!photoChunks.has(number)) photoChunks.set(number, JSON.parse(document.getElementById(`thumbnails-${number}`).textContent));
  return `data:image/webp;base64,${photoChunks.get(number)[place % chunk]}`;
}

/** A photo by its place, or what stands for one that is gone. */
function photo(place, alternative = content.images.file[place]) {
  if (missingPhotos.has(place)) {
    return element("span", { class: "photo gone", role: "img", "aria-label": `photo is gone: ${alternative}` }, "photo is gone");
  }
  const shown = element("img", { class: "photo", alt: alternative, loading: "lazy", src: photoAddress(place) });
  shown.addEventListener("error", () => shown.replaceWith(element("span", { class: "photo gone" }, "photo is gone")));
  return shown;
}

/** Of a direction: whether images ask. */
const imagesAsk = (direction) => direction === "image_to_text";

/** The image that a query is about, by its place: itself, or the one that its caption belongs to. */
const imageOf = (direction, asked) => (imagesAsk(direction) ? asked : content.captions.image[asked]);
