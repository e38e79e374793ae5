"""The formats of image files that are decoded, and a name and a remedy for files of others."""

from __future__ import annotations

from PIL import features

# Pillow's names of the formats that are decoded. Its other parsers, some forty, are not reached: among them are some
# that start a program (EPS) and some that take minutes (ASCII PPM).
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
FORMAT_NAMES = "JPEG, PNG, WebP, BMP, GIF, TIFF and AVIF"

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

_HEIC = ("heic", "heix", "heim", "heis", "hevc", "hevx", "hevm", "hevs", "mif1", "msf1")
_AVIF = ("avif", "avis")
_REASONS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the image: run 'git lfs pull'"),
    (b"<!doctype html", "an HTML page, not an image: download it again"),
    (b"<html", "an HTML page, not an image: download it again"),
    (b"<svg", "SVG is not supported: convert it to PNG"),
    (b"<?xml", "XML or SVG, not an image of pixels: convert it to PNG"),
    (b"%pdf", "PDF is not supported: convert it to PNG"),
    (b"\x1f\x8b", "a gzip file: unpack it"),
    (b"\xff\x0a", "JPEG XL is not supported: convert it to JPEG"),
    (b"\x00\x00\x00\x0cjxl ", "JPEG XL is not supported: convert it to JPEG"),
    (b"\x00\x00\x00\x0cjp  ", "JPEG 2000 is not supported: convert it to JPEG"),
    (b"\xff\x4f\xff\x51", "JPEG 2000 is not supported: convert it to JPEG"),
    (b"%!ps", "PostScript is not supported: convert it to PNG"),
    (b"\xc5\xd0\xd3\xc6", "PostScript is not supported: convert it to PNG"),
    (b"8bps", "PSD is not supported: convert it to PNG"),
)


def name_format(data: bytes) -> str:
    """The reason why bytes that are of none of `FORMATS` are not decoded, with the remedy."""
    if data[4:8] == b"ftyp":
        return _name_brand(data[8:12].decode("latin-1"))
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP" and not features.check("webp"):
        return _not_in_pillow("WebP")
    start = data[:64].lower()
    text = start.lstrip()  # HTML and XML may begin with white space
    known = (reason for signature, reason in _REASONS if start.startswith(signature) or text.startswith(signature))
    return next(known, f"not an image of a supported format ({FORMAT_NAMES}): convert it")


def _name_brand(brand: str) -> str:
    """The reason for a file of ISO's media format (HEIF, AVIF, MP4)."""
    if brand in _HEIC:
        return "HEIC is not supported: convert it to JPEG"
    if brand in _AVIF and not features.check("avif"):
        return _not_in_pillow("AVIF")
    return f"a video or an image of the kind {brand.strip()!r}, which is not supported: convert it to JPEG"


def _not_in_pillow(name: str) -> str:
    return f"the installed Pillow has no {name}: install Pillow's own wheel ('pip install --force-reinstall pillow')"
