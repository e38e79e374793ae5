"""Source folders of annotations, read into `clipstore.records.Annotations`.

    coco        ROOT/annotations/captions_<split>.json, images in ROOT/<split>/
    flickr      ROOT/Flickr8k.token.txt, captions.txt or a file of Flickr30k; an image folder, split lists
    karpathy    dataset_{coco,flickr8k,flickr30k}.json and the folder of its images
    csv_file    image_path,caption[,image_id,caption_id,split]

Each has a `read`. Image files are named, never opened: one that is missing is the caller's to count.
Whatever is wrong with a source is one `clipstore.errors.DatasetError` of one line.
"""

from __future__ import annotations

from clipstore.datasets import coco, csv_file, flickr, karpathy

__all__ = ["coco", "csv_file", "flickr", "karpathy"]
