-- Has this catalog a format yet?
SELECT 1 FROM information_schema.tables WHERE table_name = 'store_format';
