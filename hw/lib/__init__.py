"""Building blocks that every engine shares."""
