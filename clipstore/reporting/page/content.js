// The content that clipstore wrote into the page. Thumbnails are decoded when they are shown.

const content = JSON.parse(document.getElementById("content").textContent);

const missingImages = new Set(content.photos.missing);
const thumbnailChunks = new Map();

/** The address of a thumbnail by the image's index: within the page, or in the folder beside it. */
function thumbnailAddress(index) {
  const { folder, chunk } = content.photos;
  if (folder) return `${encodeURIComponent(folder)}/${index}.webp`;
  const number = Math.floor(index / chunk);
  if (!thumbnailChunks.has(number)) thumbnailChunks.set(number, JSON.parse(document.getElementById(`thumbnails-${number}`).textContent));
  return `data:image/webp;base64,${thumbnailChunks.get(number)[index % chunk]}`;
}

/** A thumbnail by the image's index, or a placeholder for a missing one. */
function thumbnail(index, alternative = content.images.file[index]) {
  const placeholder = () =>
    element("span", { class: "thumbnail missing", role: "img", "aria-label": `image missing: ${alternative}` }, "image missing");
  if (missingImages.has(index)) return placeholder();
  const image = element("img", { class: "thumbnail", alt: alternative, loading: "lazy", src: thumbnailAddress(index) });
  image.addEventListener("error", () => image.replaceWith(placeholder()));
  return image;
}

/** Whether the queries of a direction are images. */
const hasImageQueries = (direction) => direction === "image_to_text";

/** The index of a query's image: the query itself, or the image of the caption. */
const imageOf = (direction, item) => (hasImageQueries(direction) ? item : content.captions.image[item]);
