"""What runs and networks show: published tables, comparisons, features."""
