-- Items that have no vector, each with its reason.
INSERT INTO item_failures SELECT fingerprint, tower, content, reason FROM staged_failures;
