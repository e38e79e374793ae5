"""`clipstore ingest`: bring annotations into the catalog."""
