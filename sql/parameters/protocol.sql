-- The protocols of evaluation.
FROM (VALUES ('standard'), ('paired-rows'), ('coco-1k'), ('eccv'), ('cxc')) AS protocols (value);
