-- The other splits of the group of a drawn split.
SELECT name FROM splits WHERE split_part(name, '/', 1) = split_part($name, '/', 1) AND name != $name ORDER BY name;
