-- What was seen of photos that are new, changed, or gone.
UPDATE images
SET size = seen.size, modified_ns = seen.modified_ns, content = seen.content, problem = seen.problem
FROM seen_photos AS seen
WHERE images.image_id = seen.image_id;
