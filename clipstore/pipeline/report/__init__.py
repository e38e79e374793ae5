"""`clipstore report`: one HTML page of results, and tables for papers."""
