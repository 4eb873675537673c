"""Generate answers and grade them: exact answers for mathematics, executed programs for code."""
