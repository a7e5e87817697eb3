"""Operations on sparse codes, one folder each."""
