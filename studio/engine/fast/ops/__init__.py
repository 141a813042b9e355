"""The operations of the fast path."""
