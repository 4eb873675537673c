"""The book's explorer: scores of one model by several methods, as tables, and as what its page loads."""
