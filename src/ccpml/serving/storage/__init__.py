"""The files of an index: a database in SQLite, and rows that are mapped into memory."""
