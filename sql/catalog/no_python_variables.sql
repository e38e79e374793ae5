-- A name in a statement is a table or a view, never a variable of the Python code that runs it.
SET python_enable_replacements = FALSE;
