-- Note a check of a tower's precision.
INSERT INTO precision_checks VALUES ($fingerprint, $items, $least_cosine);
