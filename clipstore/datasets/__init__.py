"""Source folders of annotations, read into `clipstore.records.Annotations`.

    coco        ROOT/annotations/captions_<split>.json, images in ROOT/<split>/
    flickr      ROOT/Flickr8k.token.txt, captions.txt or a file of Flickr30k; an image folder, split lists
    karpathy    dataset_{coco,flickr8k,flickr30k}.json and the folder of its images
    hard_negatives  SugarCrepe's ROOT/<subset>.json; image_path,positive,negative[,subset]
    csv_file    image_path,caption[,class,image_id,caption_id,split], or image_path,class[,image_id,split]
    folder      ROOT/CLASS/…/image.jpg: images with a class and without captions

Each has a function `read`. Image files are not opened, and may be missing: the caller counts them. An error in a source
raises `clipstore.errors.DatasetError` with a message of one line.
"""

from __future__ import annotations

from clipstore.datasets import coco, csv_file, flickr, folder, hard_negatives, karpathy

__all__ = ["coco", "csv_file", "flickr", "folder", "hard_negatives", "karpathy"]
