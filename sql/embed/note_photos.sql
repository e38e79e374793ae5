-- What was seen of photos that are new, changed, or gone. A photo that is gone keeps the content that it had: its
-- vectors still are of it.
UPDATE images
SET size = coalesce(seen.size, images.size),
    modified_ns = coalesce(seen.modified_ns, images.modified_ns),
    content = coalesce(seen.content, images.content),
    problem = seen.problem
FROM seen_photos AS seen
WHERE images.image_id = seen.image_id;
