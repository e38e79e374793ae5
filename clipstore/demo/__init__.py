"""The demo: a drawn dataset in COCO's format, and a small CLIP pretrained on such scenes."""
