"""Shows what was learned: published tables, comparisons, features."""
