"""`clipstore ingest`: read annotations into the catalog."""
