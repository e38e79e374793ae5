-- What the precision of towers cost that no model has.
DELETE FROM precision_checks WHERE fingerprint NOT IN (SELECT fingerprint FROM towers);
