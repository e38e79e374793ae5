-- Begin a transaction that cannot write, on a connection that could.
BEGIN TRANSACTION READ ONLY;
