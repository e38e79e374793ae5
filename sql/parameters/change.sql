-- What can become of a query between two evaluations.
FROM (VALUES ('fixed'), ('broken'), ('unchanged')) AS changes (value);
