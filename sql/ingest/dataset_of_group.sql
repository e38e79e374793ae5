-- Is this group of splits one that `clipstore split` drew?
SELECT name FROM splits WHERE split_part(name, '/', 1) = $name AND drawn_from IS NOT NULL LIMIT 1;
