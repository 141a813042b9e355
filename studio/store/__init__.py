"""The index: SQLite over what the run directories say. Losing it loses nothing; `ingest` builds it again."""
