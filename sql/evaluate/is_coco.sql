-- Whether the images of a split may have COCO's own ids: its data set is in COCO's layout, or in Karpathy's.
SELECT dataset_id FROM splits JOIN datasets USING (dataset_id)
WHERE split_id = $split_id AND kind IN ('coco', 'karpathy');
