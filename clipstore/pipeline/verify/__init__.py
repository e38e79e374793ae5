"""`clipstore verify`: compare everything in a store with what the catalog registered, and repair what can be."""
