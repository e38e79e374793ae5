"""Rows in, words out: tables, CSV, JSON, progress. Pure: asks no catalog and loads no model."""
