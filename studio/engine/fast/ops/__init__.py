"""Operations of the fast path."""
