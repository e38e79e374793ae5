"""The demo: a synthetic dataset in COCO's format, and a small CLIP pretrained on such scenes."""
