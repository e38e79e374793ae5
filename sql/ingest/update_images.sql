-- Images that the source describes otherwise than before; a size that it does not state stays as it was. An image file
-- at another place is looked at again.
UPDATE images
SET source_id = staged.source_id, path = staged.path,
    width = coalesce(staged.width, images.width), height = coalesce(staged.height, images.height),
    size = CASE WHEN images.path = staged.path THEN images.size END,
    modified_ns = CASE WHEN images.path = staged.path THEN images.modified_ns END,
    content = CASE WHEN images.path = staged.path THEN images.content END
FROM staged_images AS staged, this_dataset
WHERE images.dataset_id = this_dataset.dataset_id AND images.file_name = staged.file_name
    AND (images.source_id, images.path, images.width, images.height)
        IS DISTINCT FROM (
            staged.source_id, staged.path,
            coalesce(staged.width, images.width), coalesce(staged.height, images.height));
