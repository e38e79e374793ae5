-- The drawn images from place `first` up to `stop` are the images of a split.
INSERT INTO split_images
SELECT split_id, image_id, place - $first
FROM drawn
CROSS JOIN (SELECT split_id FROM splits WHERE name = $name)
WHERE place >= $first AND place < $stop;
