"""From language models to programs."""
