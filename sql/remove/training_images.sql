-- The images that are known by their photo's bytes from now on; of the others the id stays, and is not given again.
DELETE FROM training_images
WHERE image_id IN (SELECT image_id FROM removed_images JOIN images USING (image_id) WHERE content IS NOT NULL);
