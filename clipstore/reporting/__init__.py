"""Formats rows as text: tables, CSV, JSON, progress. It does not access the catalog or load a model."""
