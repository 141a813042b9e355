"""SQLite index of the run directories. Losing it loses nothing; `ingest` rebuilds it."""
