"""The demo: a drawn data set in COCO's format, and a small CLIP pretrained on such scenes."""
